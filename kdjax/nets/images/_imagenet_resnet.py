"""ResNet-18, 34 and 50, with the stem for ImageNet or for CIFAR."""

import functools
import itertools

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._normalization import IBN
from kdjax.nets._outputs import Outputs
from kdjax.nets.images._resnet import (
  ResidualBlock,
  residual_outputs,
  residual_stages,
)

# For each depth: the blocks of the four stages; whether they are bottlenecks.
_DEPTHS = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
}


class ImageNetResNet(nnx.Module):
  """Residual network (ResNet): ResNet-18, 34 and 50, of four stages.

  Features are the stem `f0` before its pooling and the four stages `f1` to
  `f4`, all after their ReLU; the embedding is the mean of `f4` over positions.
  In a bottleneck, the 3x3 convolution has the stride, as in torchvision.
  Parameters and batch statistics are float32; the body computes in `dtype`; the
  embedding and logits are float32 or wider. For the running variance see
  `ResNet`.

  Args:
    depth: 18, 34 or 50 layers.
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. The network uses only
      the channels and accepts images of any height and width.
    stem: "imagenet" for a 7x7 convolution and a 3x3 max pooling, both of stride
      2; "cifar" for a 3x3 convolution, as in RepDistiller and mdistiller for
      32x32 images.
    width: the channels of the stem.
    norm: "batch", or "ibn-a" for `IBN` after the first convolution of each
      block except in the last stage, as in IBN-Net.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if depth, stem or norm is unknown, or the inputs have other
      channels than `input_shape`.

  Examples:
    >>> build = lambda: ImageNetResNet(
    ...   18, 10, input_shape=(32, 32, 3), stem="cifar", rngs=nnx.Rngs(0)
    ... )
    >>> run = lambda images: build()(images)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)))
    >>> spec.features["f4"].shape, spec.embedding.shape
    ((2, 4, 4, 512), (2, 512))

  References:
    He et al., `Deep residual learning for image recognition
    <https://arxiv.org/abs/1512.03385>`_, 2016, table 1, with projection
    shortcuts, as in `torchvision <https://github.com/pytorch/vision>`_ and
    `mdistiller <https://github.com/megvii-research/mdistiller>`_; Pan et al.,
    `Two at once: enhancing learning and generalization capacities via IBN-Net
    <https://arxiv.org/abs/1807.09441>`_, 2018.
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    stem: str = "imagenet",
    width: int = 64,
    norm: str = "batch",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    if depth not in _DEPTHS:
      raise ValueError(
        f"depth is {depth}; expected one of {', '.join(map(str, _DEPTHS))}."
      )
    ops.check_choice("stem", stem, ("imagenet", "cifar"))
    ops.check_choice("norm", norm, ("batch", "ibn-a"))
    counts, bottleneck = _DEPTHS[depth]
    self.input_channels = input_shape[-1]
    self.stem_kind = stem
    common = {"dtype": dtype, "rngs": rngs}
    layer = functools.partial(layers.ConvNorm, input_shape[-1], width)
    self.stem = (
      layer(7, stride=2, **common) if stem == "imagenet" else layer(3, **common)
    )
    growth = 4 if bottleneck else 1
    self.stages = nnx.List(
      residual_stages(
        functools.partial(ResidualBlock, bottleneck=bottleneck),
        counts,
        [width, *(growth * scale * width for scale in (1, 2, 4, 8))],
        **common,
      )
    )
    if norm == "ibn-a":
      for block in itertools.chain(*self.stages[:-1]):
        first = block.body[0]
        first.norm = IBN(first.norm.num_features, **common)
    last = 8 * growth * width
    self.head = layers.classifier(
      last,
      num_classes,
      bias_init=layers.torch_bias(last),
      dtype=dtype,
      rngs=rngs,
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, (self.input_channels,))
    return residual_outputs(
      self.stem,
      self.stages,
      self.head,
      inputs,
      pool=self.stem_kind == "imagenet",
    )
