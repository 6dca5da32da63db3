"""Text written by a decoder, inside jit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Integer

from kdjax.nets._decoder import Decoder
from kdjax.ops import as_number
from kdjax.ops import check_integer
from kdjax.ops import check_positive
from kdjax.ops import validate


class Generated(NamedTuple):
  """Text that a decoder has written after prompts.

  Attributes:
    tokens: `[batch, prompt + new]`, prompts included; `pad` after the end.
    attention_mask: `[batch, prompt + new]`, True for tokens that are no
      padding.
    where: `[batch, prompt + new]`, True for the written tokens, the first end
      of text included; for `kdjax.language.next_token_targets`.
    log_probs: `[batch, prompt + new]`, log-probabilities of the written tokens
      under the distribution that they were drawn from; 0 elsewhere.

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


@validate
def generate(
  key: Array,
  model: Decoder,
  prompts: Integer[Array, "batch prompt"],
  attention_mask: Bool[Array, "batch prompt"]
  | Integer[Array, "batch prompt"]
  | None = None,
  *,
  num_tokens: int,
  temperature: ArrayLike = 1.0,
  top_k: int | None = None,
  end: int | None = None,
  pad: int = 0,
) -> Generated:
  """Samples continuations of prompts, token by token, with a cache.

  The function runs inside `jax.jit`: one pass over the prompts, then a scan.

  Args:
    key: a random key.
    model: a `Decoder`.
    prompts: `[batch, prompt]`. Pad shorter prompts on the left.
    attention_mask: `[batch, prompt]`, True or 1 for tokens, False or 0 for
      padding; None takes all.
    num_tokens: the number of new tokens, static.
    temperature: T >= 0 of the distribution; 0 takes the most probable token.
      May be traced if it is above 0.
    top_k: the number of most probable tokens to draw from, static; None for
      all.
    end: the token that ends a text; the first one is kept. None for no end.
    pad: the token after the end.

  Returns:
    The texts, their masks, and log-probabilities at this temperature. They
    carry no gradient.

  Raises:
    ValueError: if shapes differ, `num_tokens` is below 1, or a text would be
      longer than the model's positions.
    TypeError: if the prompts are not integers.

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
  """
  check_integer("num_tokens", num_tokens, 1)
  batch, prompt = prompts.shape
  if prompt + num_tokens > model.config.max_length:
    raise ValueError(
      f"prompts has shape {prompts.shape} and num_tokens is {num_tokens}; "
      f"expected at most {model.config.max_length} positions, the model's "
      "max_length."
    )
  greedy = isinstance(temperature, int | float) and temperature == 0
  if not greedy:
    check_positive("temperature", temperature)
  mask = jnp.ones(prompts.shape, bool)
  if attention_mask is not None:
    mask = attention_mask.astype(bool)
  # The module stays outside of the loop, whose body gets its state.
  graph, state = nnx.split(model)
  state = jax.lax.stop_gradient(state)
  cache = model.init_cache(batch, prompt + num_tokens)
  outputs = nnx.merge(graph, state)(prompts, attention_mask=mask, cache=cache)
  scale = as_number("temperature", 1.0 if greedy else temperature, jnp.float32)

  def draw(key: Array, logits: Array, done: Array) -> tuple[Array, Array]:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits /= scale.astype(logits.dtype)
    if top_k is not None:
      least = jax.lax.top_k(logits, top_k)[0][:, -1:]
      logits = jnp.where(logits >= least, logits, -jnp.inf)
    log_probs = jax.nn.log_softmax(logits)
    token = (
      jnp.argmax(logits, -1)
      if greedy
      else jax.random.categorical(key, log_probs)
    )
    own = jnp.take_along_axis(log_probs, token[:, None], -1)[:, 0]
    token = jnp.where(done, pad, token).astype(prompts.dtype)
    return token, jnp.where(done, 0.0, own)

  def step(carry: Any, key: Array) -> tuple[Any, Any]:
    token, done, cache = carry
    outputs = nnx.merge(graph, state)(
      token[:, None], attention_mask=~done[:, None], cache=cache
    )
    new, log_probs = draw(key, outputs.logits[:, -1], done)
    written = ~done
    if end is not None:
      done |= new == end
    return (new, done, outputs.cache), (new, written, log_probs)

  keys = jax.random.split(key, num_tokens)
  done = jnp.zeros(batch, bool)
  token, log_probs = draw(keys[0], outputs.logits[:, -1], done)
  first = token, ~done, log_probs
  if end is not None:
    done |= token == end
  _, rest = jax.lax.scan(step, (token, done, outputs.cache), keys[1:])
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
