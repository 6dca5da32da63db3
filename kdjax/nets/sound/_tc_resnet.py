"""Temporal convolution: a network that spots keywords."""

import itertools

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.nets import layers
from kdjax.nets._outputs import Outputs, assemble

_STAGES = {8: (1, 1, 1), 14: (2, 2, 2)}  # blocks, by the number of layers
_CHANNELS = (16, 24, 32, 48)


class TCResNet(nnx.Module):
  """Temporal convolution ResNet (TC-ResNet), for log-mel spectrograms.

  The frequencies of a spectrogram are the channels of convolutions over time,
  so each layer sees all frequencies. Features are the stem `f0` and the three
  stages, after their ReLU; the embedding is the mean of the last over time.
  Parameters and batch statistics are float32; the body computes in `dtype`; the
  embedding and logits are float32 or wider.

  Args:
    depth: 8 or 14 layers.
    num_classes: the number of logits.
    num_mels: the number of filters of the spectrogram.
    width: multiplies the channels (16, 24, 32, 48); the authors' models have 1
      and 1.5.
    dropout: the dropout rate of the embedding, in training; the authors' is
      0.5.
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters and, if used, for dropout.

  Raises:
    ValueError: if the depth is unknown, or the inputs have other filters than
      `num_mels`.

  Examples:
    >>> model = TCResNet(8, 10, rngs=nnx.Rngs(0))
    >>> outputs = model(jnp.zeros((2, 98, 40)))
    >>> {name: f.shape for name, f in outputs.features.items()}
    {'f0': (2, 98, 1, 16), 'f1': (2, 49, 1, 24), 'f2': (2, 25, 1, 32),
     'f3': (2, 13, 1, 48)}

  References:
    Choi et al., `Temporal convolution for real-time keyword spotting on mobile
    devices <https://arxiv.org/abs/1904.03814>`_, 2019. The `authors' code
    <https://github.com/hyperconnect/TC-ResNet>`_ reads cepstral coefficients
    (MFCC), has no bias in the last layer, an epsilon of 1e-3 in batch
    normalization (1e-5 here), batch statistics that average over 0.997 of the
    past (0.9 here), and the padding of TensorFlow, which has one frame less at
    the start where a stride of 2 meets an even length.
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    num_mels: int = 40,
    width: float = 1.0,
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    if depth not in _STAGES:
      raise ValueError(f"depth is {depth}; expected 8 or 14.")
    self.num_mels = num_mels
    channels = [int(width * size) for size in _CHANNELS]
    common = {"dtype": dtype, "rngs": rngs}
    self.stem = layers.ConvNorm(num_mels, channels[0], (3, 1), **common)
    self.stages = nnx.List(
      nnx.List(
        _Block(outputs if i else inputs, outputs, **common)
        for i in range(count)
      )
      for (inputs, outputs), count in zip(
        itertools.pairwise(channels), _STAGES[depth], strict=True
      )
    )
    self.dropout = layers.dropout(dropout, rngs)
    self.head = layers.classifier(channels[-1], num_classes, **common)

  @ops.validate
  def __call__(self, inputs: Float[Array, "batch frames mels"]) -> Outputs:
    if inputs.shape[-1] != self.num_mels:
      raise ValueError(
        f"inputs has shape {inputs.shape}; expected [batch, frames, "
        f"{self.num_mels}], as log_mel returns."
      )
    x = nnx.relu(self.stem(inputs[:, :, None]))
    features = [x]
    for stage in self.stages:
      for block in stage:
        x = block(x)
      features.append(x)
    return assemble(self.head, self.dropout(layers.global_mean(x)), features)


class _Block(nnx.Module):
  """Two convolutions over nine frames, and a shortcut."""

  def __init__(
    self, inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    common = {"dtype": dtype, "rngs": rngs}
    stride = 1 if inputs == outputs else 2
    self.body = nnx.List(
      [
        layers.ConvNorm(inputs, outputs, (9, 1), stride=stride, **common),
        layers.ConvNorm(outputs, outputs, (9, 1), **common),
      ]
    )
    self.shortcut = (
      None
      if stride == 1
      else layers.ConvNorm(inputs, outputs, (1, 1), stride=2, **common)
    )

  def __call__(self, x: Array) -> Array:
    first, second = self.body
    y = second(nnx.relu(first(x)))
    # As published, the shortcut has a ReLU too where it changes the width.
    return nnx.relu(y + (nnx.relu(self.shortcut(x)) if self.shortcut else x))
