"""Layers of the networks, with the settings of the published models."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from kdjax import ops
from kdjax.nets._convolution import convolve

# The initial values of the published CIFAR models: He et al.'s fan-out normal
# for convolutions and PyTorch's default uniform for the classifier. Networks
# whose authors set none have PyTorch's default in all layers, biases included.
_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
TORCH_DEFAULT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nnx.Initializer:
  """PyTorch's default initializer of a bias: uniform, within 1 / sqrt(fan_in).

  Args:
    fan_in: the number of inputs of a unit.

  Returns:
    An initializer.
  """

  def init(key: Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def convolution(
  inputs: int,
  outputs: int,
  size: int | tuple[int, int],
  *,
  stride: int = 1,
  groups: int = 1,
  use_bias: bool = False,
  kernel_init: nnx.Initializer = _FAN_OUT,
  dtype: DTypeLike | None = None,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  """A convolution with equal padding on both sides.

  With the padding "SAME", a strided convolution would be padded on one side
  only and shifted by a pixel from the published one.
  """
  height, width = (size, size) if isinstance(size, int) else size
  return nnx.Conv(
    inputs,
    outputs,
    (height, width),
    strides=stride,
    padding=((height // 2, height // 2), (width // 2, width // 2)),
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
  epsilon: float = 1e-5,
  dtype: DTypeLike | None = None,
  rngs: nnx.Rngs,
) -> nnx.BatchNorm:
  """Batch normalization with statistics in float32."""
  return nnx.BatchNorm(
    channels,
    momentum=0.9,
    epsilon=epsilon,
    dtype=dtype,
    promote_dtype=_keep_dtypes,
    rngs=rngs,
  )


def instance_norm(
  channels: int, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
) -> nnx.InstanceNorm:
  """Instance normalization with PyTorch's epsilon and no moving statistics."""
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
    size: int | tuple[int, int],
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
  """Applies layers with a ReLU after each.

  Args:
    layers: the layers.
    x: the inputs of the first layer.

  Returns:
    The outputs of the last layer before and after its ReLU.
  """
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
  """The classifier, in float32 or wider, because losses need its precision."""
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
  """A dense layer with He et al.'s initial values, for a ReLU after it."""
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
  """A linear layer with PyTorch's initial values, as in published methods.

  With `deviation`, weights are normal with that standard deviation and biases
  are 0.
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
  """Dropout, with a random stream only if the rate is above 0."""
  ops.check_range("dropout", rate, 0.0, 1.0)
  return nnx.Dropout(rate, rngs=rngs if rate > 0 else None)


def global_mean(features: Array) -> Array:
  """Averages over height and width, in float32 or wider."""
  return features.mean((1, 2), dtype=at_least_float32(features.dtype))


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
  """Returns the wider of the dtype and float32."""
  return jnp.promote_types(dtype, jnp.float32)


def check_inputs(inputs: Array, expected: tuple[int, ...]) -> None:
  """Raises ValueError unless the last axes of images have expected sizes."""
  if inputs.shape[-len(expected) :] != expected:
    sizes = ", ".join(map(str, expected))
    raise ValueError(
      f"inputs has shape {inputs.shape}; expected [batch, height, width, "
      f"channels] = (..., {sizes})."
    )


def _keep_dtypes(arrays: Any, /, **_: Any) -> Any:
  """Returns arrays unchanged; Flax would round statistics to bfloat16."""
  return arrays
