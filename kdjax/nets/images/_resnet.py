"""Residual networks for CIFAR: ResNet and WideResNet."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs, assemble
from kdjax.nets._pooling import max_pool


class ResNet(nnx.Module):
  """Residual network (ResNet) for CIFAR: a network of basic blocks.

  Features are the stem `f0` and the three stages `f1` to `f3`, all after their
  ReLU; the embedding is the mean of `f3` over positions. Parameters and batch
  statistics are float32; the body computes in `dtype`; the embedding and logits
  are float32 or wider. Parameter counts and outputs equal those of the
  published models.

  As in Flax, the running variance averages the biased variances of batches.
  PyTorch averages unbiased variances: its running variance is n / (n - 1) times
  larger for n values a channel.

  Args:
    depth: 6 n + 2 layers: 8, 14, 20, 32, 44, 56, 110.
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of any height and width.
    channels: the channels of the stem and of the three stages; (32, 64, 128,
      256) for resnet8x4 and resnet32x4.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if depth is not 6 n + 2, or the inputs have other channels than
      `input_shape`.

  Examples:
    >>> model = ResNet(8, 10, input_shape=(8, 8, 1), rngs=nnx.Rngs(0))
    >>> outputs = model(jnp.zeros((2, 8, 8, 1)))
    >>> outputs.features["f3"].shape, outputs.embedding.shape
    ((2, 2, 2, 64), (2, 64))

  References:
    He et al., `Deep residual learning for image recognition
    <https://arxiv.org/abs/1512.03385>`_, 2016, section 4.2, with projection
    shortcuts, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    channels: tuple[int, int, int, int] = (16, 16, 32, 64),
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    blocks = _blocks_per_stage(depth, 2)
    self.input_channels = input_shape[-1]
    common = {"dtype": dtype, "rngs": rngs}
    self.stem = layers.ConvNorm(input_shape[-1], channels[0], 3, **common)
    self.stages = nnx.List(
      residual_stages(ResidualBlock, [blocks] * 3, channels, **common)
    )
    self.head = layers.classifier(
      channels[-1],
      num_classes,
      bias_init=layers.torch_bias(channels[-1]),
      dtype=dtype,
      rngs=rngs,
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, (self.input_channels,))
    return residual_outputs(self.stem, self.stages, self.head, inputs)


class WideResNet(nnx.Module):
  """Wide residual network (WRN) for CIFAR: of pre-activation blocks.

  Features are the stem `f0` and the three stages `f1` to `f3` before the next
  normalization and ReLU, as published. Pre-activations are the stages after
  that normalization. The embedding is the mean over positions of the last stage
  after normalization and ReLU. Parameters and batch statistics are float32; the
  body computes in `dtype`; the embedding and logits are float32 or wider. For
  the running variance see `ResNet`.

  Args:
    depth: 6 n + 4 layers: 10, 16, 22, 28, 40.
    widen_factor: multiplies the widths (16, 32, 64) of the stages.
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of any height and width.
    dropout: the dropout rate between the two convolutions of a block, in
      training.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters and, if used, for dropout.

  Raises:
    ValueError: if depth is not 6 n + 4, or the inputs have other channels than
      `input_shape`.

  Examples:
    >>> model = WideResNet(10, 1, 10, input_shape=(8, 8, 1), rngs=nnx.Rngs(0))
    >>> outputs = model(jnp.zeros((2, 8, 8, 1)))
    >>> list(outputs.features), outputs.embedding.shape
    (['f0', 'f1', 'f2', 'f3'], (2, 64))

  References:
    Zagoruyko and Komodakis, `Wide residual networks
    <https://arxiv.org/abs/1605.07146>`_, 2016, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
  """

  def __init__(
    self,
    depth: int,
    widen_factor: int,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    blocks = _blocks_per_stage(depth, 4)
    self.input_channels = input_shape[-1]
    channels = (16, *(width * widen_factor for width in (16, 32, 64)))
    self.stem = layers.convolution(
      input_shape[-1], channels[0], 3, dtype=dtype, rngs=rngs
    )
    self.stages = nnx.List(
      residual_stages(
        _PreActivationBlock,
        [blocks] * 3,
        channels,
        dropout=dropout,
        dtype=dtype,
        rngs=rngs,
      )
    )
    self.norm = layers.batch_norm(channels[-1], dtype=dtype, rngs=rngs)
    self.head = layers.classifier(
      channels[-1], num_classes, dtype=dtype, rngs=rngs
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, (self.input_channels,))
    x = self.stem(inputs)
    features, preactivations = [x], []
    for blocks in self.stages:
      for i, block in enumerate(blocks):
        normalized = block.norm1(x)
        if i == 0:
          preactivations.append(normalized)
        x = block(x, normalized)
      features.append(x)
    normalized = self.norm(x)
    return assemble(
      self.head,
      layers.global_mean(nnx.relu(normalized)),
      features,
      preactivations=[features[0], *preactivations[1:], normalized],
      norms=[*(blocks[0].norm1 for blocks in self.stages[1:]), self.norm],
    )


class ResidualBlock(nnx.Module):
  """Convolutions added to their input, without the final ReLU."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    stride: int,
    *,
    bottleneck: bool = False,
    **common: Any,
  ):
    layer = functools.partial(layers.ConvNorm, **common)
    if bottleneck:
      middle = outputs // 4
      body = [
        layer(inputs, middle, 1),
        layer(middle, middle, 3, stride=stride),
        layer(middle, outputs, 1),
      ]
    else:
      body = [
        layer(inputs, outputs, 3, stride=stride),
        layer(outputs, outputs, 3),
      ]
    self.body = nnx.List(body)
    self.shortcut = (
      layer(inputs, outputs, 1, stride=stride)
      if stride > 1 or inputs != outputs
      else None
    )

  def __call__(self, x: Array) -> Array:
    *inner, last = self.body
    residual = last(layers.activate(inner, x)[1])
    return residual + (self.shortcut(x) if self.shortcut else x)


class _PreActivationBlock(nnx.Module):
  """Two convolutions, each after its normalization and ReLU.

  The network applies `norm1`, because its result at the end of a stage is a
  pre-activation of the outputs.
  """

  def __init__(
    self,
    inputs: int,
    outputs: int,
    stride: int,
    *,
    dropout: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    convolution = functools.partial(layers.convolution, dtype=dtype, rngs=rngs)
    norm = functools.partial(layers.batch_norm, dtype=dtype, rngs=rngs)
    self.norm1 = norm(inputs)
    self.convolution1 = convolution(inputs, outputs, 3, stride=stride)
    self.norm2 = norm(outputs)
    self.dropout = layers.dropout(dropout, rngs)
    self.convolution2 = convolution(outputs, outputs, 3)
    self.shortcut = (
      convolution(inputs, outputs, 1, stride=stride)
      if inputs != outputs
      else None
    )

  def __call__(self, x: Array, normalized: Array) -> Array:
    active = nnx.relu(normalized)
    residual = nnx.relu(self.norm2(self.convolution1(active)))
    residual = self.convolution2(self.dropout(residual))
    return residual + (self.shortcut(active) if self.shortcut else x)


def residual_stages(
  block: Callable[..., nnx.Module],
  counts: Sequence[int],
  channels: Sequence[int],
  **common: Any,
) -> list[Any]:
  """Returns stages of blocks; all but the first halve height and width."""
  return [
    nnx.List(
      [
        block(inputs, outputs, stride, **common),
        *(block(outputs, outputs, 1, **common) for _ in range(count - 1)),
      ]
    )
    for count, (inputs, outputs), stride in zip(
      counts, itertools.pairwise(channels), (1, 2, 2, 2), strict=False
    )
  ]


def residual_outputs(
  stem: nnx.Module,
  stages: Iterable[Any],
  head: nnx.Module,
  inputs: Array,
  *,
  pool: bool = False,
) -> Outputs:
  """Runs a network of `ResidualBlock` stages."""
  before, x = layers.activate([stem], inputs)
  features, preactivations = [x], [before]
  if pool:
    x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
  for blocks in stages:
    before, x = layers.activate(blocks, x)
    features.append(x)
    preactivations.append(before)
  return assemble(
    head,
    layers.global_mean(x),
    features,
    preactivations=preactivations,
    norms=[blocks[-1].body[-1].norm for blocks in stages],
  )


def _blocks_per_stage(depth: int, outside: int) -> int:
  """Returns the blocks of one of three stages, for two layers a block."""
  blocks, rest = divmod(depth - outside, 6)
  if blocks < 1 or rest:
    raise ValueError(
      f"depth is {depth}; expected 6 n + {outside} with n of at least 1."
    )
  return blocks
