"""The vision transformer (ViT) that DeiT trains."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax.nets import layers
from kdjax.nets._convolution import convolve
from kdjax.nets._outputs import Outputs
from kdjax.nets._outputs import assemble
from kdjax.ops import validate

_INIT = nnx.initializers.truncated_normal(0.02)


class ViT(nnx.Module):
  """Vision transformer (ViT), as DeiT trains it.

  Features are the tokens after each block, the class token first; the
  attention probabilities of the blocks have the same names. The embedding is
  the class token after the last normalization. Parameters are float32; the
  body computes in `dtype`; attention probabilities, embedding and logits are
  in float32 at least.

  With a distillation token, which follows the class token, `heads` holds the
  `class` and `distillation` outputs, each of its own token and head: what
  DeiT's loss compares to the labels and to the teacher. The logits are the
  mean of both, as DeiT predicts; the embedding is both tokens, one after the
  other, and the classifier the two heads that make this mean of it.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image, whole numbers of
      patches high and wide.
    patch_size: height and width of a patch: 16 for 224x224, 4 for 32x32.
    width: units of a token: 192 of DeiT-Ti, 384 of DeiT-S.
    depth: the number of blocks.
    heads: heads of the attention.
    distillation_token: whether there is one.
    dtype: what the body computes in.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if the patches do not fill the image, the heads do not divide
      the width, or the inputs have another shape than `input_shape`.

  Examples:
    >>> run = lambda images: ViT(
    ...   10, input_shape=(32, 32, 3), patch_size=4, rngs=nnx.Rngs(0)
    ... )(images)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 32, 32, 3)))
    >>> spec.features["f11"].shape, spec.attention["f11"].shape
    ((2, 65, 192), (2, 3, 65, 65))

  References:
    Dosovitskiy et al., `An image is worth 16x16 words
    <https://arxiv.org/abs/2010.11929>`_, 2021; Touvron et al., `Training
    data-efficient image transformers and distillation through attention
    <https://arxiv.org/abs/2012.12877>`_, 2021, without stochastic depth.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    patch_size: int = 16,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    distillation_token: bool = False,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    rows, rest_of_rows = divmod(input_shape[0], patch_size)
    columns, rest_of_columns = divmod(input_shape[1], patch_size)
    if rest_of_rows or rest_of_columns:
      raise ValueError(
        f"input_shape is {input_shape}; expected height and width to be "
        f"multiples of patch_size, {patch_size}."
      )
    if width % heads:
      raise ValueError(
        f"width is {width}; expected a multiple of heads, {heads}."
      )
    self.input_shape = tuple(input_shape)
    self.patches = nnx.Conv(
      input_shape[-1],
      width,
      (patch_size, patch_size),
      strides=patch_size,
      padding="VALID",
      conv_general_dilated=convolve,
      kernel_init=layers.TORCH_DEFAULT,
      bias_init=layers.torch_bias(input_shape[-1] * patch_size**2),
      dtype=dtype,
      rngs=rngs,
    )
    count = 2 if distillation_token else 1
    # Of the class and, if there is one, the distillation token, as the heads.
    self.tokens = nnx.List(
      nnx.Param(_INIT(rngs.params(), (1, 1, width))) for _ in range(count)
    )
    self.positions = nnx.Param(
      _INIT(rngs.params(), (1, count + rows * columns, width))
    )
    self.blocks = nnx.List(
      _Block(width, heads, dtype=dtype, rngs=rngs) for _ in range(depth)
    )
    self.norm = _norm(width, dtype=layers.at_least_float32(dtype), rngs=rngs)
    self.classifiers = nnx.List(
      layers.classifier(
        width, num_classes, kernel_init=_INIT, dtype=dtype, rngs=rngs
      )
      for _ in range(count)
    )

  @validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, self.input_shape)
    x = self.patches(inputs)
    batch, *_, width = x.shape
    tokens = [
      jnp.broadcast_to(token[...].astype(x.dtype), (batch, 1, width))
      for token in self.tokens
    ]
    x = jnp.concatenate([*tokens, x.reshape(batch, -1, width)], 1)
    x = x + self.positions[...].astype(x.dtype)
    features, attention = [], []
    for block in self.blocks:
      x, probabilities = block(x)
      features.append(x)
      attention.append(probabilities)
    x = self.norm(x[:, : len(self.tokens)])
    heads: list[Any] = list(self.classifiers)
    outputs = assemble(heads[0], x[:, 0], features, attention=attention)
    if len(heads) == 1:
      return outputs
    tokens = {
      "class": assemble(heads[0], x[:, 0], []),
      "distillation": assemble(heads[1], x[:, 1], []),
    }
    return outputs._replace(
      logits=(tokens["class"].logits + tokens["distillation"].logits) / 2,
      embedding=x.reshape(batch, -1),
      classifier=(
        jnp.concatenate([head.kernel[...] for head in heads]) / 2,
        (heads[0].bias[...] + heads[1].bias[...]) / 2,
      ),
      heads=tokens,
    )


class _Block(nnx.Module):
  """Attention and a two-layer perceptron, each after its normalization."""

  def __init__(
    self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    def linear(inputs, outputs):
      return nnx.Linear(
        inputs, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs
      )

    self.heads = heads
    self.norm1 = _norm(width, dtype=dtype, rngs=rngs)
    self.qkv = linear(width, 3 * width)
    self.project = linear(width, width)
    self.norm2 = _norm(width, dtype=dtype, rngs=rngs)
    self.expand = linear(width, 4 * width)
    self.contract = linear(4 * width, width)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    batch, tokens, width = x.shape
    size = width // self.heads
    qkv = self.qkv(self.norm1(x))
    queries, keys, values = jnp.moveaxis(
      qkv.reshape(batch, tokens, 3, self.heads, size), 2, 0
    )
    scores = jnp.einsum(
      "bqhd,bkhd->bhqk",
      queries,
      keys,
      preferred_element_type=layers.at_least_float32(x.dtype),
    )
    attention = jax.nn.softmax(scores / math.sqrt(size))
    mixed = jnp.einsum(
      "bhqk,bkhd->bqhd", attention.astype(values.dtype), values
    )
    x = x + self.project(mixed.reshape(x.shape))
    inside = nnx.gelu(self.expand(self.norm2(x)), approximate=False)
    return x + self.contract(inside), attention


def _norm(width: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """The layer normalization of the published models."""
  return nnx.LayerNorm(
    width, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs
  )
