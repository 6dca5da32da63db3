"""Vision transformer (ViT), as in DeiT."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._convolution import convolve
from kdjax.nets._outputs import Outputs, assemble

_INIT = nnx.initializers.truncated_normal(0.02)


class ViT(nnx.Module):
  """Vision transformer (ViT): with the settings of DeiT.

  Features are the tokens after each block, the class token first; the attention
  probabilities of the blocks have the same names. The embedding is the class
  token after the last normalization. Parameters are float32; the body computes
  in `dtype`; attention probabilities, embedding and logits are float32 or
  wider.

  With a distillation token, after the class token, `heads` contains the
  `"class"` and the `"distillation"` outputs, each computed by its own head from
  its own token. DeiT's loss compares the former with the labels and the latter
  with the teacher. The logits are the mean of both heads, as in DeiT; the
  embedding is the concatenation of both tokens, and the classifier combines the
  two heads accordingly.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. Height and width are
      multiples of `patch_size`.
    patch_size: the height and width of a patch: 16 for 224x224, 4 for 32x32.
    width: the units of a token: 192 in DeiT-Ti, 384 in DeiT-S.
    depth: the number of blocks.
    num_heads: the number of attention heads.
    distillation_token: whether to add a distillation token.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    ValueError: if height or width is not a multiple of `patch_size`, the width
      is not a multiple of `num_heads`, or the inputs do not have the shape
      `input_shape`.

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
    num_heads: int = 3,
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
    if width % num_heads:
      raise ValueError(
        f"width is {width}; expected a multiple of num_heads, {num_heads}."
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
    # The class token and, if wanted, the distillation token; heads as well.
    self.tokens = nnx.List(
      nnx.Param(_INIT(rngs.params(), (1, 1, width))) for _ in range(count)
    )
    self.positions = nnx.Param(
      _INIT(rngs.params(), (1, count + rows * columns, width))
    )
    self.blocks = nnx.List(
      _Block(width, num_heads, dtype=dtype, rngs=rngs) for _ in range(depth)
    )
    self.norm = _norm(width, dtype=layers.at_least_float32(dtype), rngs=rngs)
    self.classifiers = nnx.List(
      layers.classifier(
        width, num_classes, kernel_init=_INIT, dtype=dtype, rngs=rngs
      )
      for _ in range(count)
    )

  @ops.validate
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
  """Attention and a two-layer perceptron, each after a layer normalization."""

  def __init__(
    self, width: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    def linear(inputs, outputs):
      return nnx.Linear(
        inputs, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs
      )

    self.num_heads = num_heads
    self.norm1 = _norm(width, dtype=dtype, rngs=rngs)
    self.qkv = linear(width, 3 * width)
    self.project = linear(width, width)
    self.norm2 = _norm(width, dtype=dtype, rngs=rngs)
    self.expand = linear(width, 4 * width)
    self.contract = linear(4 * width, width)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    batch, tokens, width = x.shape
    size = width // self.num_heads
    qkv = self.qkv(self.norm1(x))
    queries, keys, values = jnp.moveaxis(
      qkv.reshape(batch, tokens, 3, self.num_heads, size), 2, 0
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
  """Returns the layer normalization of the published models."""
  return nnx.LayerNorm(
    width, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs
  )
