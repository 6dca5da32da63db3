"""A small convolutional network without batch statistics."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._convolution import convolve
from kdjax.nets._outputs import Outputs, assemble
from kdjax.nets._pooling import max_pool


class ConvNet(nnx.Module):
  """Convolutional network (ConvNet): similar to LeNet.

  Each stage has a 5x5 convolution, a ReLU and a 2x2 max pooling. A hidden dense
  layer and the classifier follow. Features are the activations of the
  convolutions before pooling; the embedding is the hidden layer. Parameters are
  float32; the body computes in `dtype`; the embedding and logits are float32 or
  wider.

  Args:
    num_classes: the number of logits.
    input_shape: (height, width, channels) of an image. Each stage halves
      height and width, rounded down; the last must be at least 1.
    channels: the channels of each convolution.
    hidden: the units of the hidden dense layer.
    dropout: the dropout rate after the hidden layer, in training.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters and, if used, for dropout.

  Raises:
    ValueError: if channels is not a sequence of positive integers, the image is
      too small for the poolings, or the inputs do not have the shape
      `input_shape`.

  Examples:
    >>> model = ConvNet(10, rngs=nnx.Rngs(0))
    >>> outputs = model(jnp.zeros((2, 28, 28, 1)))
    >>> {name: f.shape for name, f in outputs.features.items()}
    {'f0': (2, 28, 28, 16), 'f1': (2, 14, 14, 32)}

  References:
    LeCun et al., `Gradient-based learning applied to document recognition
    <https://doi.org/10.1109/5.726791>`_, 1998. This network uses
    padding, ReLU and max pooling instead.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    channels = ops.as_sizes("channels", channels)
    height, width, inputs = input_shape
    scale = 2 ** len(channels)
    if min(height, width) < scale:
      raise ValueError(
        f"input_shape is {input_shape}; expected height and width of at least "
        f"{scale} for {len(channels)} poolings."
      )
    self.input_shape = tuple(input_shape)
    widths = (inputs, *channels)
    self.convolutions = nnx.List(
      nnx.Conv(
        a,
        b,
        (5, 5),
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=convolve,
        dtype=dtype,
        rngs=rngs,
      )
      for a, b in itertools.pairwise(widths)
    )
    flat = (height // scale) * (width // scale) * widths[-1]
    self.hidden = layers.dense(flat, hidden, dtype=dtype, rngs=rngs)
    self.dropout = layers.dropout(dropout, rngs)
    self.head = layers.classifier(hidden, num_classes, dtype=dtype, rngs=rngs)

  @ops.validate
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Outputs:
    layers.check_inputs(inputs, self.input_shape)
    x = inputs
    features, preactivations = [], []
    for convolution in self.convolutions:
      before, x = layers.activate([convolution], x)
      features.append(x)
      preactivations.append(before)
      x = max_pool(x, (2, 2), (2, 2))
    x = self.dropout(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))
    embedding = x.astype(layers.at_least_float32(x.dtype))
    return assemble(
      self.head, embedding, features, preactivations=preactivations
    )
