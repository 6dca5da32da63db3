"""Did it help: intervals against tables, Holm's steps, and the words."""

import jax
import numpy as np
import pytest

from kdjax.selection import (
  _negative_transfer,
  negative_transfer_test,
  transfer_gain,
)

GAIN = jax.jit(transfer_gain)
rng = np.random.default_rng(0)
SOURCE = 0.6 + 0.05 * rng.normal(size=6)
NOISE = 0.02 * rng.normal(size=(3, 6))
ZEROS = np.zeros(6, np.float32)


@pytest.fixture(autouse=True)
def compiled_intervals(monkeypatch):
  """The test's intervals are compiled once a shape, not each operation."""
  monkeypatch.setattr(_negative_transfer, "transfer_gain", GAIN)


# Two-sided critical values of Student's t, from the usual tables.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("degrees", "confidence", "critical"),
  [
    (1, 0.95, 12.706),
    (2, 0.95, 4.303),
    (4, 0.95, 2.776),
    (4, 0.99, 4.604),
    (9, 0.95, 2.262),
    (30, 0.95, 2.042),
    (120, 0.9, 1.658),
  ],
)
def test_intervals_are_student_s(degrees, confidence, critical):
  runs = degrees + 1
  gains = np.random.default_rng(runs).normal(size=runs)
  gain = GAIN(
    np.float32(gains), np.zeros(runs, np.float32), confidence=confidence
  )
  margin = critical * gains.std(ddof=1) / np.sqrt(runs)
  np.testing.assert_allclose(gain.mean, gains.mean(), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(gain.high - gain.mean, margin, rtol=4e-4)
  np.testing.assert_allclose(gain.mean - gain.low, margin, rtol=4e-4)


@pytest.mark.slow
def test_p_value_is_consistent_with_the_interval():
  gains = np.float32(0.01 + NOISE[0])
  p_value = GAIN(gains, ZEROS, confidence=0.95).p_value
  edge = GAIN(gains, ZEROS, confidence=1 - p_value)
  nearest = min(abs(edge.low), abs(edge.high))
  np.testing.assert_allclose(nearest, 0, atol=1e-5)


@pytest.mark.slow
def test_pairs_cancel_what_seeds_share():
  adapted = SOURCE + 0.03 + 0.1 * NOISE
  shifted = 0.5 * rng.normal(size=6)
  a, b = (
    GAIN(np.float32(x + shift), np.float32(SOURCE + shift), confidence=0.95)
    for x, shift in ((adapted, 0.0), (adapted, shifted))
  )
  np.testing.assert_allclose(a.low, b.low, atol=1e-5)
  assert a.mean.shape == (3,)


@pytest.mark.slow
def test_the_share_of_the_gap():
  gain = GAIN(*map(np.float32, (SOURCE + 0.1, SOURCE, SOURCE + 0.4)))
  np.testing.assert_allclose(gain.gap_closed, 0.25, rtol=1e-5)
  assert np.isnan(GAIN(ZEROS + 1, ZEROS, ZEROS).gap_closed)


@pytest.mark.slow
def test_one_run_and_equal_runs():
  one = negative_transfer_test([0.9], [0.5])
  assert one.gain.low == -np.inf
  assert one.gain.high == np.inf
  assert one.verdict == "unclear"
  same = negative_transfer_test([0.7, 0.8, 0.9], [0.6, 0.7, 0.8])
  assert same.verdict == "helped"
  np.testing.assert_allclose(same.gain.low, same.gain.high, rtol=1e-5)
  equal = negative_transfer_test([0.7, 0.8, 0.9], [0.7, 0.8, 0.9])
  assert equal.verdict == "unclear"
  assert equal.p_value == 1


@pytest.mark.slow
def test_holm_and_the_words():
  adapted = {
    "good": SOURCE + 0.1 + NOISE[0],
    "bad": SOURCE - 0.1 + NOISE[1],
    "odd": SOURCE + NOISE[2] - NOISE[2].mean(),
  }
  test = negative_transfer_test(adapted, SOURCE)
  assert test.verdict == {"good": "helped", "bad": "hurt", "odd": "unclear"}
  raw = np.asarray(test.gain.p_value)
  order = np.argsort(raw)
  steps = np.minimum(raw[order] * [3, 2, 1], 1)
  expected = np.empty(3)
  expected[order] = np.maximum.accumulate(steps)
  np.testing.assert_allclose(test.p_value, expected, rtol=1e-5)
  lines = test.summary.splitlines()
  assert lines[0].startswith("good helped: +0.")
  assert lines[1].startswith("bad hurt: -0.")
  assert lines[2].startswith("odd is unclear: ")
  listed = negative_transfer_test(np.stack(list(adapted.values())), SOURCE)
  assert listed.verdict == ["helped", "hurt", "unclear"]


@pytest.mark.slow
def test_several_methods_are_held_to_more():
  """What one of one shows, one of fifty does not."""
  gains = np.array([0.02, 0.05, 0.01, 0.06, 0.03])
  assert negative_transfer_test(gains, np.zeros(5)).verdict == "helped"
  draw = np.random.default_rng(0)
  many = np.concatenate([gains[None], 0.1 * draw.normal(size=(49, 5))])
  assert negative_transfer_test(many, np.zeros(5)).verdict[0] == "unclear"


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"source_only has shape \(2,\)"):
    transfer_gain(np.ones(3, np.float32), np.ones(2, np.float32))
  with pytest.raises(ValueError, match=r"adapted\['a'\] has shape \(3,\)"):
    negative_transfer_test({"a": np.ones(3)}, np.ones(2))
  with pytest.raises(ValueError, match="adapted is empty"):
    negative_transfer_test({}, np.ones(2))
  with pytest.raises(ValueError, match=r"significance is 2\.0"):
    negative_transfer_test([1.0], [1.0], significance=2.0)
  with pytest.raises(ValueError, match="confidence is 95"):
    transfer_gain(np.ones(3, np.float32), np.ones(3, np.float32), confidence=95)
