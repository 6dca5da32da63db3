"""MobileNetV2 for CIFAR, as in RepDistiller."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs, assemble

# For each group of blocks: whether it expands, channels, blocks, first stride.
_GROUPS = (
  (False, 16, 1, 1),
  (True, 24, 2, 1),
  (True, 32, 3, 2),
  (True, 64, 4, 2),
  (True, 96, 3, 1),
  (True, 160, 3, 2),
  (True, 320, 1, 1),
)


# The outputs of these groups are the features f1 to f4.
_ENDS = (1, 2, 4, 6)


class MobileNetV2(nnx.Module):
  """MobileNetV2 for CIFAR: a network of inverted residual blocks.

  Features are the stem `f0` after its ReLU and four stages `f1` to `f4`. The
  stages end without an activation, so these features are also the
  pre-activations. The embedding is the mean over positions of the last 1x1
  convolution. Activations are ReLU, not ReLU6. Parameters and batch statistics
  are float32; the body computes in `dtype`; the embedding and logits are
  float32 or wider. For the running variance see `ResNet`.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of any height and width.
    width_multiplier: multiplies the widths of the ImageNet network. The last
      convolution is never narrower than published.
    expansion: the ratio of the widths inside of a block and at its input.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if `width_multiplier` or `expansion` is not positive, or the
      inputs have other channels than `input_shape`.

  Examples:
    >>> run = lambda images: MobileNetV2(
    ...   10, input_shape=(32, 32, 3), rngs=nnx.Rngs(0)
    ... )(images)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)))
    >>> spec.features["f4"].shape, spec.embedding.shape
    ((2, 2, 2, 160), (2, 1280))

  References:
    Sandler et al., `MobileNetV2: inverted residuals and linear bottlenecks
    <https://arxiv.org/abs/1801.04381>`_, 2018, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    width_multiplier: float = 0.5,
    expansion: int = 6,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    ops.check_positive("width_multiplier", width_multiplier)
    ops.check_positive("expansion", expansion)
    self.input_channels = input_shape[-1]
    common = {"dtype": dtype, "rngs": rngs}
    inputs = int(32 * width_multiplier)
    self.stem = layers.ConvNorm(input_shape[-1], inputs, 3, stride=2, **common)
    groups = []
    for expands, channels, count, first_stride in _GROUPS:
      outputs = int(channels * width_multiplier)
      blocks = []
      for i in range(count):
        middle = inputs * (expansion if expands else 1)
        stride = 1 if i else first_stride
        blocks.append(
          _InvertedResidual(inputs, middle, outputs, stride, **common)
        )
        inputs = outputs
      groups.append(nnx.List(blocks))
    self.groups = nnx.List(groups)
    last = int(1280 * max(width_multiplier, 1.0))
    self.last = layers.ConvNorm(inputs, last, 1, **common)
    self.head = layers.classifier(
      last,
      num_classes,
      kernel_init=nnx.initializers.normal(0.01),
      dtype=dtype,
      rngs=rngs,
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, (self.input_channels,))
    before, stem = layers.activate([self.stem], inputs)
    x, stages = stem, []
    for i, group in enumerate(self.groups):
      for block in group:
        x = block(x)
      if i in _ENDS:
        stages.append(x)
    _, last = layers.activate([self.last], x)
    return assemble(
      self.head,
      layers.global_mean(last),
      [stem, *stages],
      preactivations=[before, *stages],
      norms=[self.groups[i][-1].project.norm for i in _ENDS],
    )


class _InvertedResidual(nnx.Module):
  """Expansion, depthwise convolution and projection without activation."""

  def __init__(
    self, inputs: int, middle: int, outputs: int, stride: int, **common: Any
  ):
    layer = functools.partial(layers.ConvNorm, **common)
    self.expand = layer(inputs, middle, 1)
    self.depthwise = layer(middle, middle, 3, stride=stride, groups=middle)
    self.project = layer(middle, outputs, 1)
    self.residual = stride == 1 and inputs == outputs

  def __call__(self, x: Array) -> Array:
    _, inside = layers.activate([self.expand, self.depthwise], x)
    projected = self.project(inside)
    return x + projected if self.residual else projected
