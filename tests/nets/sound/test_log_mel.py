"""Frames and log-mel spectrograms against a float64 oracle, on HTK's scale."""

import jax
import numpy as np
import pytest

from kdjax import nets


def oracle(signal, *, rate, size, hop, fft, mels, low, high, floor):
  """Sums over the bins of each triangle, one by one."""

  def mel(f):
    return 2595 * np.log10(1 + f / 700)

  points = np.linspace(mel(low), mel(high), mels + 2)
  edges = 700 * (10 ** (points / 2595) - 1)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
  rows = []
  for start in range(0, len(signal) - size + 1, hop):
    power = np.abs(np.fft.fft(signal[start : start + size] * window, fft)) ** 2
    row = []
    for left, middle, right in zip(edges, edges[1:], edges[2:], strict=False):
      energy = 0.0
      for k in range(fft // 2 + 1):
        f = k * rate / fft
        if left < f <= middle:
          energy += power[k] * (f - left) / (middle - left)
        elif middle < f < right:
          energy += power[k] * (right - f) / (right - middle)
      row.append(np.log(max(energy, floor)))
    rows.append(row)
  return np.array(rows)


def test_log_mel_is_that_of_sums_over_triangles():
  signal = np.random.default_rng(0).normal(size=(2, 700))
  signal[1, 200:] = 0  # below the floor
  found = jax.jit(
    lambda x: nets.log_mel(
      x,
      sample_rate=8000,
      frame_size=200,
      hop=80,
      fft_size=256,
      num_mels=12,
      low=100,
      high=3500,
      floor=1e-5,
    )
  )(signal.astype(np.float32))
  options = {"rate": 8000, "size": 200, "hop": 80, "fft": 256, "mels": 12}
  options |= {"low": 100, "high": 3500, "floor": 1e-5}
  for row, x in zip(found, signal, strict=True):
    np.testing.assert_allclose(row, oracle(x, **options), rtol=1e-4, atol=1e-4)


def test_frames_overlap_and_are_not_padded():
  signal = np.arange(20.0, dtype=np.float32).reshape(2, 10)
  frames = nets.frame_signal(signal, frame_size=4, hop=3)
  assert frames.shape == (2, 3, 4)
  np.testing.assert_array_equal(frames[1, 2], signal[1, 6:])


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (
      lambda x: nets.frame_signal(x, frame_size=101, hop=1),
      "signals have 100 samples; expected 101 or more",
    ),
    (
      lambda x: nets.frame_signal(x, frame_size=4, hop=0),
      "hop is 0; expected 1 or more",
    ),
    (
      lambda x: nets.log_mel(x, frame_size=80, fft_size=64),
      "frame_size is 80; expected at most fft_size, 64",
    ),
    (
      lambda x: nets.log_mel(x, sample_rate=100, low=60),
      "low is 60 and high is 50; expected 0 <= low < high <= 50",
    ),
  ],
)
def test_sizes_that_will_not_do(call, words):
  with pytest.raises(ValueError, match=words):
    call(np.zeros(100, np.float32))
