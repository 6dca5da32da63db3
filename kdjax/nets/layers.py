"""The layers that the networks share, set as the published models set them."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from kdjax.nets._convolution import convolve
from kdjax.ops import check_range

# What the published CIFAR models start from: He et al.'s fan-out normal for
# convolutions, PyTorch's default uniform for the classifier or, where the
# authors say nothing, for all, biases included.
_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
TORCH_DEFAULT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nnx.Initializer:
  """PyTorch's default of a bias: uniform, as wide as that of the kernel."""

  def init(key: Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def convolution(
  inputs: int,
  outputs: int,
  size: int,
  *,
  stride: int = 1,
  groups: int = 1,
  use_bias: bool = False,
  kernel_init: nnx.Initializer = _FAN_OUT,
  dtype: DTypeLike | None = None,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  """A convolution, padded alike on both sides.

  "SAME" would pad a strided convolution on one side only and sample a grid
  shifted by a pixel from the published one.
  """
  return nnx.Conv(
    inputs,
    outputs,
    (size, size),
    strides=stride,
    padding=size // 2,
    feature_group_count=groups,
    use_bias=use_bias,
    kernel_init=kernel_init,
    conv_general_dilated=convolve,
    dtype=dtype,
    rngs=rngs,
  )


def batch_norm(
  channels: int,
  *,
  dtype: DTypeLike | None = None,
  rngs: nnx.Rngs,
) -> nnx.BatchNorm:
  """Batch normalization whose statistics stay in float32."""
  return nnx.BatchNorm(
    channels,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    promote_dtype=_keep_dtypes,
    rngs=rngs,
  )


def instance_norm(
  channels: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
) -> nnx.InstanceNorm:
  """Instance normalization with PyTorch's epsilon; it has no statistics."""
  return nnx.InstanceNorm(
    channels,
    epsilon=1e-5,
    dtype=dtype,
    promote_dtype=_keep_dtypes,
    rngs=rngs,
  )


class ConvNorm(nnx.Module):
  """A convolution and its batch normalization."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    size: int,
    *,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
    **options: Any,
  ):
    self.convolution = convolution(
      inputs, outputs, size, dtype=dtype, rngs=rngs, **options
    )
    self.norm = batch_norm(outputs, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """Applies the convolution and its normalization."""
    return self.norm(self.convolution(x))


def activate(layers: Iterable[Any], x: Array) -> tuple[Array, Array]:
  """Applies layers, each before a ReLU; returns the last one's two sides."""
  before = x
  for layer in layers:
    before = layer(x)
    x = nnx.relu(before)
  return before, x


def classifier(
  inputs: int,
  num_classes: int,
  *,
  kernel_init: nnx.Initializer = TORCH_DEFAULT,
  bias_init: nnx.Initializer = nnx.initializers.zeros,
  dtype: DTypeLike | None = None,
  rngs: nnx.Rngs,
) -> nnx.Linear:
  """The head, never narrower than float32: losses need its digits."""
  return nnx.Linear(
    inputs,
    num_classes,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=None if dtype is None else at_least_float32(dtype),
    rngs=rngs,
  )


def dense(
  inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
  """A dense layer for the ReLU that follows it."""
  return nnx.Linear(
    inputs,
    outputs,
    kernel_init=nnx.initializers.he_normal(),
    dtype=dtype,
    rngs=rngs,
  )


def linear(
  inputs: int,
  outputs: int,
  *,
  use_bias: bool = True,
  deviation: float | None = None,
  rngs: nnx.Rngs,
) -> nnx.Linear:
  """A linear layer that starts as PyTorch's, as in the published methods.

  Or, where their authors give a standard deviation, from normal weights and
  biases of 0.
  """
  kernel_init, bias_init = TORCH_DEFAULT, torch_bias(inputs)
  if deviation is not None:
    kernel_init = nnx.initializers.normal(deviation)
    bias_init = nnx.initializers.zeros
  return nnx.Linear(
    inputs,
    outputs,
    use_bias=use_bias,
    kernel_init=kernel_init,
    bias_init=bias_init,
    rngs=rngs,
  )


def dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
  """Dropout that holds a random stream only if it will use one."""
  check_range("dropout", rate, 0.0, 1.0)
  return nnx.Dropout(rate, rngs=rngs if rate > 0 else None)


def global_mean(features: Array) -> Array:
  """Averages over height and width, in float32 at least."""
  return features.mean((1, 2), dtype=at_least_float32(features.dtype))


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
  """The dtype, or float32 where that is wider."""
  return jnp.promote_types(dtype, jnp.float32)


def check_inputs(inputs: Array, expected: tuple[int, ...]) -> None:
  """Raises ValueError unless the images end in the expected sizes."""
  if inputs.shape[-len(expected) :] != expected:
    sizes = ", ".join(map(str, expected))
    raise ValueError(
      f"inputs has shape {inputs.shape}; expected [batch, height, width, "
      f"channels] = (..., {sizes})."
    )


def _keep_dtypes(arrays: Any, /, **_: Any) -> Any:
  """Leaves arrays alone: Flax would round running statistics to bfloat16."""
  return arrays
