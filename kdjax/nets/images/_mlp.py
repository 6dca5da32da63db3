"""Multi-layer perceptron (MLP)."""

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs, assemble


class MLP(nnx.Module):
  """Multi-layer perceptron (MLP): on flattened images.

  Features are the activations of the hidden layers; the embedding is the last
  of them. Parameters are float32; the hidden layers compute in `dtype`; the
  embedding and logits are float32 or wider.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image.
    hidden: the units of each hidden layer.
    dropout: the dropout rate after each hidden layer, in training.
    dtype: the dtype in which the hidden layers compute.
    rngs: random streams for the parameters and, if used, for dropout.

  Raises:
    ValueError: if hidden is not a sequence of positive integers, or the inputs
      do not have the shape `input_shape`.

  Examples:
    >>> model = MLP(10, input_shape=(8, 8, 1), hidden=(32,), rngs=nnx.Rngs(0))
    >>> outputs = model(jnp.zeros((2, 8, 8, 1)))
    >>> outputs.logits.shape, outputs.embedding.shape
    ((2, 10), (2, 32))

  References:
    Hinton et al., `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 3, with two
    layers of 1200 or 800 units.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int],
    hidden: Sequence[int] = (256, 256),
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    hidden = ops.as_sizes("hidden", hidden)
    widths = (math.prod(input_shape), *hidden)
    self.input_shape = tuple(input_shape)
    self.layers = nnx.List(
      layers.dense(inputs, outputs, dtype=dtype, rngs=rngs)
      for inputs, outputs in itertools.pairwise(widths)
    )
    self.dropout = layers.dropout(dropout, rngs)
    self.head = layers.classifier(
      widths[-1], num_classes, dtype=dtype, rngs=rngs
    )

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, self.input_shape)
    x = inputs.reshape(inputs.shape[0], -1)
    features, preactivations = [], []
    for layer in self.layers:
      before, x = layers.activate([layer], x)
      features.append(x)
      preactivations.append(before)
      x = self.dropout(x)
    embedding = x.astype(layers.at_least_float32(x.dtype))
    return assemble(
      self.head, embedding, features, preactivations=preactivations
    )
