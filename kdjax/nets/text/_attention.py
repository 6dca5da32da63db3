"""Attention of text transformers: heads, rotary positions, masks, caches."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from kdjax.nets import layers

INIT = nnx.initializers.normal(0.02)


class AttentionOutputs(NamedTuple):
  """The result of an attention layer, and the arrays on the way to it.

  Attributes:
    result: `[batch, length, width]`.
    probabilities: `[batch, heads, length, keys]`.
    scores: `[batch, heads, length, keys]`, before mask and softmax.
    queries: `[batch, heads, length, head_width]`, with rotary positions.
    keys: `[batch, key_heads, keys, head_width]`.
    values: `[batch, key_heads, keys, head_width]`.
    stored: keys and values as a cache stores them, or None.
  """

  result: Array
  probabilities: Array
  scores: Array
  queries: Array
  keys: Array
  values: Array
  stored: tuple[Array, Array] | None


class Attention(nnx.Module):
  """Attention with grouped queries, rotary positions and a soft cap."""

  def __init__(
    self,
    width: int,
    num_heads: int,
    *,
    key_heads: int | None = None,
    head_width: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    query_bias: bool = True,
    output_bias: bool = True,
    query_norm: float | None = None,
    dropout: float = 0.0,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    key_heads = key_heads or num_heads
    head_width = head_width or width // num_heads
    if num_heads % key_heads:
      raise ValueError(
        f"num_heads is {num_heads}; expected a multiple of key_heads, "
        f"{key_heads}."
      )
    self.num_heads, self.key_heads = num_heads, key_heads
    self.head_width = head_width
    self.scale = head_width**-0.5 if scale is None else scale
    self.softcap = softcap
    self.query = linear(
      width, num_heads * head_width, query_bias, dtype, param_dtype, rngs
    )
    self.key = linear(
      width, key_heads * head_width, query_bias, dtype, param_dtype, rngs
    )
    self.value = linear(
      width, key_heads * head_width, query_bias, dtype, param_dtype, rngs
    )
    self.output = linear(
      num_heads * head_width, width, output_bias, dtype, param_dtype, rngs
    )
    self.normalized = query_norm is not None
    if query_norm is not None:
      self.query_norm = RMSNorm(
        head_width, query_norm, dtype=dtype, param_dtype=param_dtype
      )
      self.key_norm = RMSNorm(
        head_width, query_norm, dtype=dtype, param_dtype=param_dtype
      )
    self.dropout = layers.dropout(dropout, rngs)

  def __call__(
    self,
    x: Array,
    mask: Array,
    *,
    rotary: tuple[Array, Array] | None = None,
    cache: tuple[Array, Array] | None = None,
    start: Any = 0,
  ) -> AttentionOutputs:
    """Applies the layer.

    Args:
      x: `[batch, length, width]`.
      mask: `[batch or 1, 1, length, keys]`, True where a query sees a key.
      rotary: cosines and sines, `[batch, length, head_width]`, or None.
      cache: keys and values of earlier tokens, `[batch, keys, key_heads,
        head_width]`; the new ones are written from `start` on.
      start: the first place in the cache.
    """
    batch, length, _ = x.shape
    queries, keys, values = (
      layer(x).reshape(batch, length, heads, self.head_width)
      for layer, heads in (
        (self.query, self.num_heads),
        (self.key, self.key_heads),
        (self.value, self.key_heads),
      )
    )
    if self.normalized:
      queries, keys = self.query_norm(queries), self.key_norm(keys)
    if rotary is not None:
      queries, keys = (_rotate(y, *rotary) for y in (queries, keys))
    stored = None
    if cache is not None:
      keys, values = (
        jax.lax.dynamic_update_slice_in_dim(
          old, new.astype(old.dtype), start, 1
        )
        for old, new in zip(cache, (keys, values), strict=True)
      )
      stored = keys, values
      keys, values = keys.astype(x.dtype), values.astype(x.dtype)
    groups = self.num_heads // self.key_heads
    wide = layers.at_least_float32(x.dtype)
    grouped = queries.reshape(
      batch, length, self.key_heads, groups, self.head_width
    )
    scores = jnp.einsum(
      "bqkgd,bskd->bkgqs", grouped, keys, preferred_element_type=wide
    ).reshape(batch, self.num_heads, length, keys.shape[1])
    scores *= self.scale
    if self.softcap is not None:
      scores = self.softcap * jnp.tanh(scores / self.softcap)
    # A finite number: the row of a query that sees nothing stays finite.
    masked = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    probabilities = jax.nn.softmax(masked)
    used = self.dropout(probabilities).astype(values.dtype)
    used = used.reshape(batch, self.key_heads, groups, length, keys.shape[1])
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", used, values)
    result = self.output(mixed.reshape(batch, length, -1))
    return AttentionOutputs(
      result,
      probabilities,
      scores,
      jnp.swapaxes(queries, 1, 2),
      jnp.swapaxes(keys, 1, 2),
      jnp.swapaxes(values, 1, 2),
      stored,
    )


class RMSNorm(nnx.Module):
  """Normalization by the root mean square, in float32 or wider.

  With `offset`, the scale is 1 plus the parameter, as in Gemma.
  """

  def __init__(
    self,
    width: int,
    epsilon: float,
    *,
    offset: bool = False,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
  ):
    initial = jnp.zeros if offset else jnp.ones
    self.scale = nnx.Param(initial(width, param_dtype))
    self.epsilon, self.offset, self.dtype = epsilon, offset, jnp.dtype(dtype)

  def __call__(self, x: Array) -> Array:
    """Normalizes the last axis."""
    wide = x.astype(layers.at_least_float32(x.dtype))
    square = jnp.mean(jnp.square(wide), -1, keepdims=True)
    scale = self.scale[...].astype(wide.dtype)
    if self.offset:
      scale = 1 + scale
    scale = jnp.expand_dims(scale, range(x.ndim - 1))
    return (wide * jax.lax.rsqrt(square + self.epsilon) * scale).astype(
      self.dtype
    )


def layer_norm(
  width: int,
  epsilon: float,
  *,
  dtype: DTypeLike,
  param_dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> nnx.LayerNorm:
  """A layer normalization with the exact variance."""
  return nnx.LayerNorm(
    width,
    epsilon=epsilon,
    use_fast_variance=False,
    dtype=dtype,
    param_dtype=param_dtype,
    rngs=rngs,
  )


def linear(
  inputs: int,
  outputs: int,
  use_bias: bool,
  dtype: DTypeLike,
  param_dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> nnx.Linear:
  """A linear layer with the initial values of BERT and GPT-2."""
  return nnx.Linear(
    inputs,
    outputs,
    use_bias=use_bias,
    kernel_init=INIT,
    dtype=dtype,
    param_dtype=param_dtype,
    rngs=rngs,
  )


def rotary_angles(
  positions: Array, width: int, theta: float, scaling: Any = None
) -> tuple[Array, Array]:
  """Returns cosines and sines of the rotary angles, in float32.

  Args:
    positions: `[batch, length]`.
    width: the width of a head.
    theta: the base of the wavelengths.
    scaling: None, ("linear", factor), or ("llama3", factor, low_factor,
      high_factor, original_length).
  """
  frequencies = theta ** -(jnp.arange(0, width, 2, dtype=jnp.float32) / width)
  if scaling is not None:
    frequencies = _scaled(frequencies, *scaling)
  angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
  angles = jnp.concatenate([angles, angles], -1)
  return jnp.cos(angles), jnp.sin(angles)


def _scaled(frequencies: Array, kind: str, factor: float, *rest: Any) -> Array:
  if kind == "linear":
    return frequencies / factor
  low, high, original = rest
  wavelengths = 2 * math.pi / frequencies
  smooth = (original / wavelengths - low) / (high - low)
  mixed = (1 - smooth) * frequencies / factor + smooth * frequencies
  return jnp.where(
    wavelengths > original / low,
    frequencies / factor,
    jnp.where(wavelengths < original / high, frequencies, mixed),
  )


def _rotate(x: Array, cosines: Array, sines: Array) -> Array:
  """Rotates pairs of a head's halves; x is `[batch, length, heads, width]`."""
  first, second = jnp.split(x, 2, -1)
  turned = jnp.concatenate([-second, first], -1)
  cosines, sines = (y[:, :, None].astype(x.dtype) for y in (cosines, sines))
  return x * cosines + turned * sines


ACTIVATIONS = {
  "gelu": lambda x: nnx.gelu(x, approximate=False),
  "gelu_tanh": lambda x: nnx.gelu(x, approximate=True),
  "relu": nnx.relu,
  "silu": nnx.silu,
}
