"""ShuffleNet V1 and V2 for CIFAR, as in RepDistiller."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs, assemble

_STEM = 24


class ShuffleNetV1(nnx.Module):
  """ShuffleNet V1 for CIFAR: with three groups and width 1.

  Features are the stem `f0` and the three stages `f1` to `f3`, all after their
  ReLU; the embedding is the mean of `f3` over positions. `Outputs` has no
  normalizations, because a stage ends with several parallel ones. Parameters
  and batch statistics are float32; the body computes in `dtype`; the embedding
  and logits are float32 or wider. For the running variance see `ResNet`.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of any height and width.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if the inputs have other channels than `input_shape`.

  Examples:
    >>> run = lambda images: ShuffleNetV1(
    ...   10, input_shape=(32, 32, 3), rngs=nnx.Rngs(0)
    ... )(images)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)))
    >>> spec.features["f3"].shape, spec.embedding.shape
    ((2, 4, 4, 960), (2, 960))

  References:
    Zhang et al., `ShuffleNet: an extremely efficient convolutional neural
    network for mobile devices <https://arxiv.org/abs/1707.01083>`_, 2018, as
    in `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_: a 1x1 stem
    without pooling, and ReLU also after the depthwise convolutions.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.input_channels = input_shape[-1]
    layer = functools.partial(
      layers.ConvNorm,
      kernel_init=layers.TORCH_DEFAULT,
      dtype=dtype,
      rngs=rngs,
    )
    self.stem = layer(input_shape[-1], _STEM, 1)
    self.stages = nnx.List(
      _stages(_GroupedBlock, (4, 8, 4), (240, 480, 960), layer)
    )
    self.head = layers.classifier(
      960,
      num_classes,
      bias_init=layers.torch_bias(960),
      dtype=dtype,
      rngs=rngs,
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, (self.input_channels,))
    features, preactivations = _run(self.stem, self.stages, inputs)
    return assemble(
      self.head,
      layers.global_mean(features[-1]),
      features,
      preactivations=preactivations,
    )


class ShuffleNetV2(nnx.Module):
  """ShuffleNet V2 for CIFAR: with width 1.

  Features are the stem `f0` and the three stages `f1` to `f3`, all after their
  ReLU; the embedding is the mean over positions of the last 1x1 convolution.
  `Outputs` has no normalizations, because half of the channels of a stage pass
  its last block unchanged. Parameters and batch statistics are float32; the
  body computes in `dtype`; the embedding and logits are float32 or wider. For
  the running variance see `ResNet`.

  Pre-activations have the same order of channels as features. RepDistiller
  returns pre-activations in the order before the last shuffle.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of any height and width.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if the inputs have other channels than `input_shape`.

  Examples:
    >>> run = lambda images: ShuffleNetV2(
    ...   10, input_shape=(32, 32, 3), rngs=nnx.Rngs(0)
    ... )(images)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)))
    >>> spec.features["f3"].shape, spec.embedding.shape
    ((2, 4, 4, 464), (2, 1024))

  References:
    Ma et al., `ShuffleNet V2: practical guidelines for efficient CNN
    architecture design <https://arxiv.org/abs/1807.11164>`_, 2018, as in
    `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_: a 1x1 stem
    without pooling.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.input_channels = input_shape[-1]
    layer = functools.partial(
      layers.ConvNorm,
      kernel_init=layers.TORCH_DEFAULT,
      dtype=dtype,
      rngs=rngs,
    )
    self.stem = layer(input_shape[-1], _STEM, 1)
    self.stages = nnx.List(
      _stages(_SplitBlock, (4, 8, 4), (116, 232, 464), layer)
    )
    self.last = layer(464, 1024, 1)
    self.head = layers.classifier(
      1024,
      num_classes,
      bias_init=layers.torch_bias(1024),
      dtype=dtype,
      rngs=rngs,
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, (self.input_channels,))
    features, preactivations = _run(self.stem, self.stages, inputs)
    _, last = layers.activate([self.last], features[-1])
    return assemble(
      self.head,
      layers.global_mean(last),
      features,
      preactivations=preactivations,
    )


class _GroupedBlock(nnx.Module):
  """ShuffleNet V1: grouped convolutions next to the input or its pooling."""

  groups = 3

  def __init__(self, inputs: int, outputs: int, *, layer: Callable[..., Any]):
    self.halves = inputs != outputs
    # The pooled input makes up the remaining output channels.
    outputs -= inputs if self.halves else 0
    middle = outputs // 4
    # The stem has too few channels for groups.
    self.first_groups = 1 if inputs == _STEM else self.groups
    stride = 2 if self.halves else 1
    self.layers = nnx.List(
      [
        layer(inputs, middle, 1, groups=self.first_groups),
        layer(middle, middle, 3, stride=stride, groups=middle),
        layer(middle, outputs, 1, groups=self.groups),
      ]
    )

  def __call__(self, x: Array) -> Array:
    expand, depthwise, project = self.layers
    inside = _shuffle(nnx.relu(expand(x)), self.first_groups)
    residual = project(nnx.relu(depthwise(inside)))
    if not self.halves:
      return x + residual
    pooled = nnx.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return jnp.concatenate([residual, pooled], -1)


class _SplitBlock(nnx.Module):
  """ShuffleNet V2: convolves half of the channels, or all with stride 2."""

  def __init__(self, inputs: int, outputs: int, *, layer: Callable[..., Any]):
    self.halves = inputs != outputs
    middle = outputs // 2
    stride = 2 if self.halves else 1
    left = [
      layer(inputs, inputs, 3, stride=2, groups=inputs),
      layer(inputs, middle, 1),
    ]
    right = [
      layer(inputs if self.halves else middle, middle, 1),
      layer(middle, middle, 3, stride=stride, groups=middle),
      layer(middle, middle, 1),
    ]
    self.layers = nnx.List([*left, *right] if self.halves else right)

  def __call__(self, x: Array) -> Array:
    # No ReLU follows a depthwise convolution. The unchanged half is positive,
    # so the ReLU after the block does not change it.
    left, right = (x, x) if self.halves else jnp.split(x, 2, -1)
    *left_layers, expand, depthwise, project = self.layers
    for layer in left_layers:
      left = layer(left)
    right = project(depthwise(nnx.relu(expand(right))))
    return _shuffle(jnp.concatenate([left, right], -1), 2)


def _stages(
  block: Callable[..., nnx.Module],
  counts: tuple[int, ...],
  channels: tuple[int, ...],
  layer: Callable[..., Any],
) -> list[Any]:
  """Returns stages of blocks; the first block halves height and width."""
  return [
    nnx.List(
      [
        block(inputs, outputs, layer=layer),
        *(block(outputs, outputs, layer=layer) for _ in range(count - 1)),
      ]
    )
    for count, (inputs, outputs) in zip(
      counts, itertools.pairwise((_STEM, *channels)), strict=True
    )
  ]


def _run(
  stem: nnx.Module, stages: Iterable[Any], inputs: Array
) -> tuple[list[Array], list[Array]]:
  """Returns the outputs of stem and stages after and before their ReLU."""
  features, preactivations = [], []
  x = inputs
  for blocks in ([stem], *stages):
    before, x = layers.activate(blocks, x)
    features.append(x)
    preactivations.append(before)
  return features, preactivations


def _shuffle(x: Array, groups: int) -> Array:
  """Interleaves the channels of the groups."""
  *sizes, channels = x.shape
  split = x.reshape(*sizes, groups, channels // groups)
  return split.swapaxes(-1, -2).reshape(x.shape)
