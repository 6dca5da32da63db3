"""Text written by a decoder, inside jit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Integer

from kdjax import ops
from kdjax.nets.text._decoder import Decoder


class Generated(NamedTuple):
  """Text that a decoder has written after prompts.

  Attributes:
    tokens: `[batch, prompt + new]`, prompts included; `pad` after the end.
    attention_mask: `[batch, prompt + new]`, True for tokens that are no
      padding.
    where: `[batch, prompt + new]`, True for the written tokens, the first end
      of text included; for `kdjax.language.next_token_targets`.
    log_probs: `[batch, prompt + new]`, log-probabilities of the written tokens
      under the distribution that they were drawn from, of a mixture with a
      teacher under the model's part; 0 elsewhere. They stand at the places of
      the tokens: `kdjax.language.next_token_log_probs` brings them to the
      labels.

  Examples:
    >>> Generated(*[jnp.zeros((1, 4), int)] * 4).tokens.shape
    (1, 4)

  References:
    Agarwal et al., `On-policy distillation of language models
    <https://arxiv.org/abs/2306.13649>`_, 2024.
  """

  tokens: Array
  attention_mask: Array
  where: Array
  log_probs: Array


@ops.validate
def generate(
  key: Array,
  model: Decoder,
  prompts: Integer[Array, "batch prompt"],
  attention_mask: Bool[Array, "batch prompt"]
  | Integer[Array, "batch prompt"]
  | None = None,
  teacher: Decoder | None = None,
  *,
  num_tokens: int,
  temperature: ArrayLike = 1.0,
  top_k: int | None = None,
  accepted: int = 25,
  teacher_share: ArrayLike | None = None,
  end: int | None = None,
  pad: int = 0,
) -> Generated:
  """Samples continuations of prompts, token by token, with a cache.

  The function runs inside `jax.jit`: one pass over the prompts, then a scan.

  With a teacher it is the sampling of speculative knowledge distillation: the
  model proposes each token, and a proposal that is not among the teacher's
  `accepted` most probable tokens is replaced by a token that the teacher draws.
  With `teacher_share` too, it is MiniLLM's teacher-mixed sampling: each token
  is drawn from the mixture of both distributions.

  Args:
    key: a random key.
    model: a `Decoder`.
    prompts: `[batch, prompt]`. Pad shorter prompts on the left.
    attention_mask: `[batch, prompt]`, True or 1 for tokens, False or 0 for
      padding; None takes all.
    teacher: a `Decoder` with the same tokens, or None.
    num_tokens: the number of new tokens, static.
    temperature: T >= 0 of the distribution; 0 takes the most probable token.
      May be traced if it is above 0.
    top_k: the number of most probable tokens to draw from, static; None for
      all.
    accepted: the number K >= 1 of the teacher's most probable tokens that are
      accepted as proposals, static; so are tokens as probable as the K-th.
    teacher_share: the share in [0, 1] of the teacher in the mixture that tokens
      are drawn from, or None for speculative sampling. May be traced.
    end: the token that ends a text; the first one is kept. None for no end.
    pad: the token after the end.

  Returns:
    The texts, their masks, and log-probabilities at this temperature. They
    carry no gradient. After a token that the vocabulary does not have, the
    log-probabilities are NaN and the tokens mean nothing.

  Raises:
    ValueError: if shapes or vocabularies differ, `num_tokens`, `accepted` or
      `top_k` is below 1, a text would be longer than a model's positions, or
      `teacher_share` is outside [0, 1], has no teacher or has a `top_k`.
    TypeError: if the prompts or these numbers are not integers.

  Examples:
    >>> from flax import nnx
    >>> from kdjax.nets import DecoderConfig
    >>> config = DecoderConfig(9, width=4, depth=1, num_heads=2, inner_width=4)
    >>> model = Decoder(config, rngs=nnx.Rngs(0))
    >>> prompts = jnp.array([[1, 2, 3]])
    >>> generate(jax.random.key(0), model, prompts, num_tokens=2).tokens.shape
    (1, 5)

  References:
    Agarwal et al., `On-policy distillation of language models
    <https://arxiv.org/abs/2306.13649>`_, 2024.
    Xu et al., `Speculative knowledge distillation
    <https://arxiv.org/abs/2410.11325>`_, 2025, for `teacher`.
    Gu et al., `MiniLLM <https://arxiv.org/abs/2306.08543>`_, 2024, for
    `teacher_share`.
  """
  ops.check_integer("num_tokens", num_tokens, 1)
  ops.check_integer("accepted", accepted, 1)
  if top_k is not None:
    ops.check_integer("top_k", top_k, 1)
    top_k = min(top_k, model.config.vocab_size)
  share = None
  if teacher_share is not None:
    share = ops.as_fraction("teacher_share", teacher_share, jnp.float32)
    if teacher is None or top_k is not None:
      raise ValueError(
        f"teacher_share is {teacher_share}; expected a teacher and no top_k "
        "beside it, or None."
      )
  batch, prompt = prompts.shape
  models = [model] if teacher is None else [model, teacher]
  for name, one in zip(("model", "teacher"), models, strict=False):
    if prompt + num_tokens > one.config.max_length:
      raise ValueError(
        f"prompts has shape {prompts.shape} and num_tokens is {num_tokens}; "
        f"expected at most {one.config.max_length} positions, the {name}'s "
        "max_length."
      )
  sizes = [one.config.vocab_size for one in models]
  if len(set(sizes)) > 1:
    raise ValueError(
      f"teacher has {sizes[1]} tokens; expected {sizes[0]}, those of model."
    )
  greedy = isinstance(temperature, int | float) and temperature == 0
  if not greedy:
    ops.check_positive("temperature", temperature)
  mask = jnp.ones(prompts.shape, bool)
  if attention_mask is not None:
    mask = attention_mask.astype(bool)
  # The modules stay outside of the loop, whose body gets their state.
  graph, state = nnx.split(models)
  state = jax.lax.stop_gradient(state)
  scale = ops.as_number(
    "temperature", 1.0 if greedy else temperature, jnp.float32
  )

  def read(tokens: Array, mask: Array, caches: Any) -> tuple[Any, Any]:
    """The logits after the last token, one for each model, and the caches."""
    pairs = zip(nnx.merge(graph, state), caches, strict=True)
    found = [one(tokens, attention_mask=mask, cache=c) for one, c in pairs]
    return [x.logits[:, -1] for x in found], [x.cache for x in found]

  def log_probs_of(logits: Array) -> Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits /= scale.astype(logits.dtype)
    if top_k is not None:
      least = jax.lax.top_k(logits, top_k)[0][:, -1:]
      logits = jnp.where(logits >= least, logits, -jnp.inf)
    return jax.nn.log_softmax(logits)

  def pick(key: Array, log_probs: Array) -> Array:
    if greedy:
      return jnp.argmax(log_probs, -1)
    return jax.random.categorical(key, log_probs)

  def draw(key: Array, logits: Any, done: Array) -> tuple[Array, Array]:
    log_probs = log_probs_of(logits[0])
    drawn_from = log_probs
    if share is not None:
      drawn_from = jnp.logaddexp(
        jnp.log1p(-share) + log_probs, jnp.log(share) + log_probs_of(logits[1])
      )
    token = pick(key, drawn_from)
    own = _of_tokens(log_probs, token)
    if share is not None:  # NaN of the share or of the teacher is kept
      lost = jnp.isnan(_of_tokens(drawn_from, token))
      own = jnp.where(lost, jnp.nan, own)
    if teacher is not None and share is None:
      most = min(accepted, logits[1].shape[-1])
      least = jax.lax.top_k(logits[1], most)[0][:, -1]
      kept = _of_tokens(logits[1], token) >= least
      log_probs = log_probs_of(logits[1])
      other = pick(jax.random.fold_in(key, 1), log_probs)
      token = jnp.where(kept, token, other)
      own = jnp.where(kept, own, _of_tokens(log_probs, other))
    token = jnp.where(done, pad, token).astype(prompts.dtype)
    return token, jnp.where(done, 0.0, own)

  def step(carry: Any, key: Array) -> tuple[Any, Any]:
    token, done, caches = carry
    logits, caches = read(token[:, None], ~done[:, None], caches)
    new, log_probs = draw(key, logits, done)
    written = ~done
    if end is not None:
      done |= new == end
    return (new, done, caches), (new, written, log_probs)

  caches = [one.init_cache(batch, prompt + num_tokens) for one in models]
  logits, caches = read(prompts, mask, caches)
  keys = jax.random.split(key, num_tokens)
  done = jnp.zeros(batch, bool)
  token, log_probs = draw(keys[0], logits, done)
  first = token, ~done, log_probs
  if end is not None:
    done |= token == end
  _, rest = jax.lax.scan(step, (token, done, caches), keys[1:])
  new, written, log_probs = (
    jnp.concatenate([a[None], b]).T for a, b in zip(first, rest, strict=True)
  )
  return jax.lax.stop_gradient(
    Generated(
      jnp.concatenate([prompts, new], 1),
      jnp.concatenate([mask, written], 1),
      jnp.concatenate([jnp.zeros_like(mask), written], 1),
      jnp.concatenate(
        [jnp.zeros(prompts.shape, log_probs.dtype), log_probs], 1
      ),
    )
  )


def _of_tokens(values: Array, tokens: Array) -> Array:
  """The values `[batch, vocabulary]` of one token each."""
  return jnp.take_along_axis(values, tokens[:, None], -1)[:, 0]
