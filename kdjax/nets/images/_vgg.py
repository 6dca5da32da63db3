"""VGG networks for CIFAR, as in RepDistiller."""

import itertools

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs, assemble
from kdjax.nets._pooling import max_pool

# For each depth: the convolutions of the five stages.
_DEPTHS = {
  8: (1, 1, 1, 1, 1),
  11: (1, 1, 2, 2, 2),
  13: (2, 2, 2, 2, 2),
  16: (2, 2, 3, 3, 3),
  19: (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
  """VGG network for CIFAR: with batch normalization and one dense layer.

  The network has five stages of 3x3 convolutions. A 2x2 max pooling follows
  each of the first three stages, and the fourth for images of 64 pixels and
  more. Features `f0` to `f4` are the stages after their ReLU, before pooling;
  the embedding is the mean of `f4` over positions. Parameters and batch
  statistics are float32; the body computes in `dtype`; the embedding and logits
  are float32 or wider. For the running variance see `ResNet`.

  Args:
    depth: 8, 11, 13, 16 or 19 layers, including two dense layers of the
      original that this network does not have.
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of at least 8x8.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if the depth is unknown, the image is smaller than 8x8, or the
      inputs have other channels than `input_shape`.

  Examples:
    >>> run = lambda images: VGG(
    ...   8, 10, input_shape=(32, 32, 3), rngs=nnx.Rngs(0)
    ... )(images)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)))
    >>> spec.features["f3"].shape, spec.embedding.shape
    ((2, 4, 4, 512), (2, 512))

  References:
    Simonyan and Zisserman, `Very deep convolutional networks for large-scale
    image recognition <https://arxiv.org/abs/1409.1556>`_, 2015, as in
    `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_.
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    if depth not in _DEPTHS:
      raise ValueError(
        f"depth is {depth}; expected one of {', '.join(map(str, _DEPTHS))}."
      )
    if min(input_shape[:2]) < 8:
      raise ValueError(
        f"input_shape is {input_shape}; expected height and width of at least "
        "8 for 3 poolings."
      )
    self.input_channels = input_shape[-1]
    stages = []
    sizes = itertools.pairwise((input_shape[-1], *_CHANNELS))
    for count, (inputs, outputs) in zip(_DEPTHS[depth], sizes, strict=True):
      stages.append(
        nnx.List(
          layers.ConvNorm(
            outputs if i else inputs,
            outputs,
            3,
            use_bias=True,
            dtype=dtype,
            rngs=rngs,
          )
          for i in range(count)
        )
      )
    self.stages = nnx.List(stages)
    self.head = layers.classifier(
      _CHANNELS[-1],
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
    poolings = 4 if inputs.shape[1] >= 64 else 3
    x = inputs
    features, preactivations = [], []
    for i, stage in enumerate(self.stages):
      before, x = layers.activate(stage, x)
      features.append(x)
      preactivations.append(before)
      if i < poolings:
        x = max_pool(x, (2, 2), (2, 2))
    return assemble(
      self.head,
      layers.global_mean(x),
      features,
      preactivations=preactivations,
      norms=[layers[-1].norm for layers in self.stages[1:]],
    )
