"""Front ends of sound: frames and log-mel spectrograms, as pure functions."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def frame_signal(
  signals: Float[Array, "*batch samples"],
  *,
  frame_size: int,
  hop: int,
) -> Float[Array, "*batch frames frame_size"]:
  """Divides signals into frames that overlap.

  Args:
    signals: `[*batch, samples]`, which are not padded.
    frame_size: the samples of a frame.
    hop: the samples from the start of a frame to that of the next one.

  Returns:
    `[*batch, 1 + (samples - frame_size) // hop, frame_size]`.

  Raises:
    ValueError: if a size is below 1, or the signals are shorter than a frame.

  Examples:
    >>> print(frame_signal(jnp.arange(7.0), frame_size=4, hop=2))
    [[0. 1. 2. 3.]
     [2. 3. 4. 5.]]

  References:
    Allen and Rabiner, `A unified approach to short-time Fourier analysis and
    synthesis <https://doi.org/10.1109/PROC.1977.10770>`_, 1977.
  """
  samples = signals.shape[-1]
  for name, value in (("frame_size", frame_size), ("hop", hop)):
    if value < 1:
      raise ValueError(f"frame_signal: {name} is {value}; expected 1 or more.")
  if samples < frame_size:
    raise ValueError(
      f"frame_signal: signals have {samples} samples; expected {frame_size} or "
      "more, those of a frame. Pad them with zeros."
    )
  starts = np.arange(1 + (samples - frame_size) // hop) * hop
  return signals[..., starts[:, None] + np.arange(frame_size)]


@ops.validate
def log_mel(
  signals: Float[Array, "*batch samples"],
  *,
  sample_rate: int | float = 16_000,
  frame_size: int = 480,
  hop: int = 160,
  fft_size: int = 512,
  num_mels: int = 40,
  low: int | float = 20,
  high: int | float | None = None,
  floor: float = 1e-6,
) -> Float[Array, "*batch frames num_mels"]:
  r"""Log-mel spectrogram, on the mel scale of HTK.

  .. math::
    x_{tm} = \log \max\Bigl(\varepsilon, \sum_k w_{mk} \bigl|
             \mathrm{FFT}(h \odot s_t)_k \bigr|^2 \Bigr), \quad
    \mathrm{mel}(f) = 2595 \log_{10}(1 + f / 700)

  The window h is a periodic Hann window. The filters w are triangles of height
  1, linear in Hz. Their ends are the centers of their neighbors and lie at
  equal distances in mel. They equal the filters of torchaudio, and of librosa
  with `htk=True` and `norm=None`. HTK's own triangles are linear in mel, and by
  default its window is a Hamming window and its energies are magnitudes.
  Slaney's definition has another mel scale and triangles of area 1.

  Args:
    signals: `[*batch, samples]`, between -1 and 1; frames are not padded.
    sample_rate: in Hz.
    frame_size: the samples of a frame; the default is 30 ms.
    hop: the samples from a frame to the next one; the default is 10 ms.
    fft_size: the samples of the Fourier transform; frames are padded with
      zeros.
    num_mels: the number of filters.
    low: where the first triangle starts, in Hz.
    high: where the last triangle ends, in Hz; None for half the sample rate.
    floor: the lowest energy, which bounds the logarithm.

  Returns:
    `[*batch, 1 + (samples - frame_size) // hop, num_mels]`, in float32 or
    wider.

  Raises:
    ValueError: if the signals are shorter than a frame, a frame is longer than
      the transform, or the range of frequencies is empty or beyond half the
      sample rate.

  Examples:
    >>> log_mel(jnp.zeros(16_000)).shape
    (98, 40)

  References:
    Young et al., `The HTK book
    <https://www.danielpovey.com/files/htkbook.pdf>`_, 2006, section 5.4, for
    the scale; the frame and the hop are those of Choi et al., `Temporal
    convolution for real-time keyword spotting on mobile devices
    <https://arxiv.org/abs/1904.03814>`_, 2019, whose 40 features of a frame are
    cepstral coefficients (MFCC).
  """
  high = sample_rate / 2 if high is None else high
  if not 0 <= low < high <= sample_rate / 2:
    raise ValueError(
      f"log_mel: low is {low:g} and high is {high:g}; expected 0 <= low < high "
      f"<= {sample_rate / 2:g}, half the sample rate."
    )
  if frame_size > fft_size:
    raise ValueError(
      f"log_mel: frame_size is {frame_size}; expected at most fft_size, "
      f"{fft_size}."
    )
  dtype = jnp.promote_types(signals.dtype, jnp.float32)
  frames = frame_signal(signals.astype(dtype), frame_size=frame_size, hop=hop)
  window = jnp.asarray(np.hanning(frame_size + 1)[:-1], dtype)
  windowed = frames * jnp.broadcast_to(window, frames.shape)
  spectrum = jnp.fft.rfft(windowed, fft_size)
  energy = spectrum.real**2 + spectrum.imag**2
  filters = _mel_filters(sample_rate, fft_size, num_mels, low, high)
  return jnp.log(ops.at_least(energy @ filters.astype(dtype), floor))


@functools.cache
def _mel_filters(
  sample_rate: int | float,
  fft_size: int,
  num_mels: int,
  low: int | float,
  high: int | float,
) -> np.ndarray:
  """Triangles `[1 + fft_size // 2, num_mels]`."""
  low, high = (2595 * math.log10(1 + f / 700) for f in (low, high))
  mels = np.linspace(low, high, num_mels + 2)
  edges = 700 * (10 ** (mels / 2595) - 1)
  frequencies = np.arange(1 + fft_size // 2)[:, None] * sample_rate / fft_size
  rising = (frequencies - edges[:-2]) / np.diff(edges)[:-1]
  falling = (edges[2:] - frequencies) / np.diff(edges)[1:]
  return np.maximum(0, np.minimum(rising, falling))
