"""Decoder of text: Llama, Qwen, Gemma-2 and GPT-2 in one form."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from kdjax import fused, ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs
from kdjax.nets.text._attention import (
  ACTIVATIONS,
  INIT,
  Attention,
  AttentionOutputs,
  RMSNorm,
  layer_norm,
  linear,
  rotary_angles,
)
from kdjax.nets.text._explicit_axes import over_any_mesh
from kdjax.nets.text._text_inputs import look_up, read_inputs, text_outputs

# The kinds of rotary scaling, and how many entries each has.
_SCALINGS = (("linear", 2), ("llama3", 5))


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The sizes and the form of a `Decoder`; the defaults are Llama's form.

  Attributes:
    vocab_size: the number of tokens.
    width: the units of a hidden state.
    depth: the number of blocks.
    num_heads: the number of attention heads.
    inner_width: the units inside a block's perceptron.
    key_heads: the number of heads of keys and values, which groups of queries
      share; None for `num_heads`.
    head_width: the units of a head; None for width / num_heads.
    max_length: the number of positions.
    norm: "rms" or "layer".
    norm_epsilon: the epsilon of the normalizations.
    norm_offset: whether the scale is 1 plus the parameter (Gemma).
    post_norms: whether the results of attention and perceptron are normalized
      too (Gemma 2).
    query_norm: whether queries and keys of each head are normalized (Qwen 3).
    positions: "rotary" or "learned" (GPT-2).
    rotary_theta: the base of the rotary wavelengths.
    rotary_scaling: None, ("linear", factor) or ("llama3", factor, low_factor,
      high_factor, original_length).
    activation: "gelu", "gelu_tanh", "relu" or "silu".
    gated: whether the perceptron has a gate (SwiGLU).
    query_bias: whether queries, keys and values have a bias.
    output_bias: whether the output of the attention has a bias.
    inner_bias: whether the perceptron has biases.
    attention_scale: the factor of the scores; None for head_width^-0.5.
    attention_softcap: the soft cap of the scores, or None.
    logit_softcap: the soft cap of the logits, or None.
    embedding_scale: the factor of the embedding, or None (Gemma: width^0.5).
    tied_head: whether the head's weights are the embedding's.
    window: how many tokens the windowed layers see, or None.
    windowed: for each layer, whether it is windowed; None for no layer.
    dropout: the rate in training.

  References:
    Touvron et al., `LLaMA <https://arxiv.org/abs/2302.13971>`_, 2023; Gemma
    team, `Gemma 2 <https://arxiv.org/abs/2408.00118>`_, 2024; Yang et al.,
    `Qwen3 <https://arxiv.org/abs/2505.09388>`_, 2025.
  """

  vocab_size: int
  width: int = 256
  depth: int = 6
  num_heads: int = 8
  inner_width: int = 688
  key_heads: int | None = None
  head_width: int | None = None
  max_length: int = 2048
  norm: str = "rms"
  norm_epsilon: float = 1e-6
  norm_offset: bool = False
  post_norms: bool = False
  query_norm: bool = False
  positions: str = "rotary"
  rotary_theta: float = 10000.0
  rotary_scaling: tuple[Any, ...] | None = None
  activation: str = "silu"
  gated: bool = True
  query_bias: bool = False
  output_bias: bool = False
  inner_bias: bool = False
  attention_scale: float | None = None
  attention_softcap: float | None = None
  logit_softcap: float | None = None
  embedding_scale: float | None = None
  tied_head: bool = False
  window: int | None = None
  windowed: tuple[bool, ...] | None = None
  dropout: float = 0.0

  def __post_init__(self):
    """Checks the choices."""
    ops.check_choice("norm", self.norm, ("rms", "layer"))
    ops.check_choice("positions", self.positions, ("rotary", "learned"))
    ops.check_choice("activation", self.activation, tuple(ACTIVATIONS))
    if self.head_width is None and self.width % self.num_heads:
      raise ValueError(
        f"width is {self.width}; expected a multiple of num_heads, "
        f"{self.num_heads}, or head_width."
      )
    head_width = self.head_width or self.width // self.num_heads
    if self.positions == "rotary" and head_width % 2:
      raise ValueError(
        f"head_width is {head_width}; expected an even number for rotary "
        "positions."
      )
    scaling = self.rotary_scaling
    if scaling is not None and (scaling[0], len(scaling)) not in _SCALINGS:
      raise ValueError(
        f"rotary_scaling is {scaling}; expected None, ('linear', factor) or "
        "('llama3', factor, low_factor, high_factor, original_length)."
      )
    if any(self.windowed or ()) and not self.window:
      raise ValueError(
        f"window is {self.window}; expected a number of tokens, as windowed "
        "names layers with a window."
      )
    if self.windowed is not None and len(self.windowed) != self.depth:
      raise ValueError(
        f"windowed has {len(self.windowed)} entries; expected one a layer, "
        f"{self.depth}."
      )


class KVCache(NamedTuple):
  """Keys and values of the tokens that a decoder has read.

  Attributes:
    layers: keys and values of each block, `[batch, places, key_heads,
      head_width]`.
    mask: `[batch, places]`, True for the tokens that are no padding.
    length: how many places are filled.

  Examples:
    >>> KVCache((), jnp.zeros((1, 4), bool), jnp.array(0)).mask.shape
    (1, 4)

  References:
    Pope et al., `Efficiently scaling transformer inference
    <https://arxiv.org/abs/2211.05102>`_, 2023.
  """

  layers: tuple[tuple[Array, Array], ...]
  mask: Array
  length: Array


class Decoder(nnx.Module):
  """Decoder of text: a causal language model.

  Features are the hidden states after the embedding and after each block, the
  last one after the final normalization. The attention probabilities, the
  scores before mask and softmax, the queries (with rotary positions), keys and
  values of the blocks have the names of their blocks' features. The embedding
  is the input of the head, `[batch, length, width]`: from it and `head`,
  `kdjax.fused` computes losses without all logits. Parameters have
  `param_dtype`; the body computes in `dtype`; scores, probabilities and logits
  are float32 or wider. A token that the vocabulary does not have makes its text
  NaN, unless the token is padding. Under `jax.jit`, unused outputs are free.

  Args:
    config: the sizes and the form.
    dtype: the dtype in which the body computes.
    param_dtype: the dtype of the parameters.
    rngs: random streams for the parameters and for dropout.

  Examples:
    >>> config = DecoderConfig(
    ...   100, width=8, depth=2, num_heads=2, inner_width=16
    ... )
    >>> run = lambda tokens: Decoder(config, rngs=nnx.Rngs(0))(tokens)
    >>> spec = jax.eval_shape(run, jnp.zeros((3, 5), int))
    >>> spec.logits.shape, list(spec.features), spec.embedding.shape
    ((3, 5, 100), ['f0', 'f1', 'f2'], (3, 5, 8))

  References:
    Touvron et al., `LLaMA <https://arxiv.org/abs/2302.13971>`_, 2023; Radford
    et al., `Language models are unsupervised multitask learners
    <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>`_,
    2019.
  """

  def __init__(
    self,
    config: DecoderConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.config, self.dtype = config, jnp.dtype(dtype)
    self.tokens = nnx.Param(
      INIT(rngs.params(), (config.vocab_size, config.width), param_dtype)
    )
    if config.positions == "learned":
      self.positions = nnx.Param(
        INIT(rngs.params(), (config.max_length, config.width), param_dtype)
      )
    self.dropout = layers.dropout(config.dropout, rngs)
    self.blocks = nnx.List(
      _Block(config, dtype, param_dtype, rngs) for _ in range(config.depth)
    )
    self.norm = _norm(config, dtype, param_dtype, rngs)
    if not config.tied_head:
      self.head_weight = nnx.Param(
        INIT(rngs.params(), (config.vocab_size, config.width), param_dtype)
      )

  @property
  def head(self) -> fused.Head:
    """The head, for `kdjax.fused`: logits are its product with `embedding`."""
    weight = self.tokens if self.config.tied_head else self.head_weight
    return fused.Head(weight[...], softcap=self.config.logit_softcap)

  def init_cache(
    self, batch: int, places: int, dtype: DTypeLike | None = None
  ) -> KVCache:
    """Returns an empty cache.

    Args:
      batch: the number of texts.
      places: the largest number of tokens of a text, padding included.
      dtype: the dtype of keys and values; None for that of the body.
    """
    config = self.config
    shape = (
      batch,
      places,
      config.key_heads or config.num_heads,
      config.head_width or config.width // config.num_heads,
    )
    empty = jnp.zeros(shape, dtype or self.dtype)
    return KVCache(
      ((empty, empty),) * config.depth,
      jnp.zeros((batch, places), bool),
      jnp.zeros((), jnp.int32),
    )

  def __call__(
    self,
    inputs: ArrayLike | Mapping[str, Any],
    *,
    attention_mask: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    cache: KVCache | None = None,
  ) -> Outputs:
    """Applies the network.

    Args:
      inputs: tokens `[batch, length]`, or a mapping with `"tokens"` and any of
        `"attention_mask"` and `"positions"`.
      attention_mask: `[batch, length]`, True or 1 for tokens, False or 0 for
        padding on either side; None takes all.
      positions: `[batch, length]`; None counts the tokens that are no padding,
        so that padding on the left changes nothing.
      cache: the keys and values of earlier calls; the outputs contain the new
        cache. Tokens for which the cache has no places left are refused. Where
        the filled length is traced, all outputs are NaN instead, and so are
        those of later calls.
    """
    config = self.config
    tokens, given = read_inputs(
      inputs,
      config.vocab_size,
      config.max_length,
      attention_mask=attention_mask,
      positions=positions,
    )
    if cache is not None:
      _check_cache(cache, tokens, config.depth)
    given["cache"] = cache
    return over_any_mesh(Decoder._run, self, tokens, given)

  def _run(self, tokens: Array, given: dict[str, Any]) -> Outputs:
    config, cache = self.config, given["cache"]
    valid, places = given["attention_mask"], given["positions"]
    length = tokens.shape[1]
    start: Any = 0
    seen = valid
    if cache is not None:
      start = cache.length
      seen = jax.lax.dynamic_update_slice_in_dim(cache.mask, valid, start, 1)
    if places is None:
      before = 0
      if cache is not None:
        before = jnp.sum(cache.mask, 1, keepdims=True)
      places = jnp.maximum(before + jnp.cumsum(valid, 1) - 1, 0)
    x = look_up(self.tokens[...], tokens, valid).astype(self.dtype)
    if cache is not None:
      # Past the last place the update would overwrite the last tokens.
      x = jnp.where(start + length <= seen.shape[1], x, jnp.nan)
    if config.embedding_scale is not None:
      x *= jnp.asarray(config.embedding_scale, x.dtype)
    rotary = None
    if config.positions == "learned":
      x += look_up(self.positions[...], places, valid).astype(x.dtype)
    else:
      rotary = rotary_angles(
        places,
        config.head_width or config.width // config.num_heads,
        config.rotary_theta,
        config.rotary_scaling,
      )
    x = self.dropout(x)
    masks = _masks(length, seen, start, config.window)
    features, attention = [x], []
    for i, block in enumerate(self.blocks):
      windowed = config.windowed is not None and config.windowed[i]
      x, outputs = block(
        x,
        masks[int(windowed)],
        rotary=rotary,
        cache=None if cache is None else cache.layers[i],
        start=start,
      )
      features.append(x)
      attention.append(outputs)
    x = features[-1] = self.norm(x)
    stored = None
    if cache is not None:
      stored = KVCache(
        tuple(outputs.stored for outputs in attention),
        seen,
        cache.length + length,
      )
    weight, cap = self.head.weight, config.logit_softcap
    return text_outputs(
      self._logits(x),
      features,
      x,
      attention,
      classifier=(weight.T, jnp.zeros(weight.shape[0], weight.dtype)),
      token_embeddings=self.tokens[...],
      cache=stored,
      logit_softcap=None if cap is None else jnp.asarray(cap, jnp.float32),
    )

  def _logits(self, x: Array) -> Array:
    weight, _, _, softcap = self.head
    logits = jnp.einsum(
      "blw,vw->blv",
      x,
      weight.astype(x.dtype),
      preferred_element_type=layers.at_least_float32(x.dtype),
    )
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


class _Block(nnx.Module):
  """Attention and a perceptron, each after a normalization."""

  def __init__(
    self,
    config: DecoderConfig,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    def norm() -> nnx.Module:
      return _norm(config, dtype, param_dtype, rngs)

    def dense(inputs: int, outputs: int) -> nnx.Linear:
      return linear(
        inputs, outputs, config.inner_bias, dtype, param_dtype, rngs
      )

    self.norm1 = norm()
    self.attention = Attention(
      config.width,
      config.num_heads,
      key_heads=config.key_heads,
      head_width=config.head_width,
      scale=config.attention_scale,
      softcap=config.attention_softcap,
      query_bias=config.query_bias,
      output_bias=config.output_bias,
      query_norm=config.norm_epsilon if config.query_norm else None,
      dropout=config.dropout,
      dtype=dtype,
      param_dtype=param_dtype,
      rngs=rngs,
    )
    self.norm2 = norm()
    if config.gated:
      self.gate = dense(config.width, config.inner_width)
    self.expand = dense(config.width, config.inner_width)
    self.contract = dense(config.inner_width, config.width)
    if config.post_norms:
      self.post_norm1, self.post_norm2 = norm(), norm()
    self.dropout = layers.dropout(config.dropout, rngs)
    self.config = config

  def __call__(
    self, x: Array, mask: Array, **options: Any
  ) -> tuple[Array, AttentionOutputs]:
    config = self.config
    activate = ACTIVATIONS[config.activation]
    outputs = self.attention(self.norm1(x), mask, **options)
    result = outputs.result
    if config.post_norms:
      result = self.post_norm1(result)
    x = x + self.dropout(result)
    inside = self.norm2(x)
    if config.gated:
      inside = activate(self.gate(inside)) * self.expand(inside)
    else:
      inside = activate(self.expand(inside))
    result = self.contract(inside)
    if config.post_norms:
      result = self.post_norm2(result)
    return x + self.dropout(result), outputs


def _norm(
  config: DecoderConfig,
  dtype: DTypeLike,
  param_dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> Any:
  if config.norm == "layer":
    return layer_norm(
      config.width,
      config.norm_epsilon,
      dtype=dtype,
      param_dtype=param_dtype,
      rngs=rngs,
    )
  return RMSNorm(
    config.width,
    config.norm_epsilon,
    offset=config.norm_offset,
    dtype=dtype,
    param_dtype=param_dtype,
  )


def _masks(
  length: int, seen: Array, start: Any, window: int | None
) -> tuple[Array, Array]:
  """Returns the causal mask, whole and in a window: `[batch, 1, length, keys]`.

  The masks count places, and the window counts tokens, because padding may lie
  between the tokens of two calls.
  """
  queries = start + jnp.arange(length)[:, None]
  keys = jnp.arange(seen.shape[1])[None]
  causal = keys <= queries
  whole = causal[None, None] & seen[:, None, None, :]
  if window is None:
    return whole, whole
  counts = jnp.cumsum(seen, 1)
  last = jax.lax.dynamic_slice_in_dim(counts, start, length, 1)
  near = counts[:, None, :] > last[:, :, None] - window
  return whole, whole & near[:, None]


def _check_cache(cache: KVCache, tokens: Array, depth: int) -> None:
  """Raises ValueError if a cache is of another network, or full."""
  batch, places = cache.mask.shape
  if len(cache.layers) != depth or batch != tokens.shape[0]:
    raise ValueError(
      f"cache has {len(cache.layers)} blocks and {batch} texts; expected "
      f"{depth} and {tokens.shape[0]}: make it with init_cache of this network."
    )
  # Within a jitted loop only the number of places is known.
  known = not isinstance(cache.length, jax.core.Tracer)
  filled = int(cache.length) if known else 0
  if filled + tokens.shape[1] > places:
    raise ValueError(
      f"tokens has {tokens.shape[1]} tokens and cache {places} places, "
      f"{filled} of them filled; expected at most {places - filled} tokens: "
      "make a longer cache with init_cache."
    )
