"""Calibration against a NumPy float64 oracle, its extremes and its axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.metrics import expected_calibration_error, reliability_curve


@functools.partial(jax.jit, static_argnames="num_bins")
def _measure(*arguments, **options):
  """The curve and the error, in one program for all data of a shape."""
  return (
    reliability_curve(*arguments, **options),
    expected_calibration_error(*arguments, **options),
  )


def _sample(size=200, classes=5):
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(size, classes)).astype(np.float32) * 2
  labels = rng.integers(classes, size=size)
  return logits, labels, rng.random(size) < 0.7


def _oracle(logits, labels, where, bins):
  """Guo et al.'s loop over bins: confidence, accuracy, count and error."""
  logits = np.asarray(logits, np.float64)[where]
  labels = labels[where]
  probabilities = np.exp(logits - logits.max(-1, keepdims=True))
  probabilities /= probabilities.sum(-1, keepdims=True)
  confidence, hits = probabilities.max(-1), probabilities.argmax(-1) == labels
  rows, error = [], 0.0
  for low, high in zip(
    np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True
  ):
    inside = (confidence > low) & (confidence <= high)
    count = inside.sum()
    if count:
      row = confidence[inside].mean(), hits[inside].mean(), count
      error += count / len(labels) * abs(row[0] - row[1])
    else:
      row = 0.0, 0.0, 0
    rows.append(row)
  return np.array(rows).T, error


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_curve_and_error_are_guo_et_al(bins):
  logits, labels, where = _sample()
  curve, error = _oracle(logits, labels, where, bins)
  got_curve, got_error = _measure(logits, labels, num_bins=bins, where=where)
  np.testing.assert_allclose(np.stack(got_curve), curve, rtol=2e-6)
  np.testing.assert_allclose(got_error, error, rtol=1e-5)


def test_confidence_on_an_edge_falls_below_it():
  curve, _ = _measure(
    np.zeros((3, 2), np.float32), np.zeros(3, int), num_bins=2
  )
  np.testing.assert_array_equal(curve.count, [3, 0])


def test_mask_is_slicing_whatever_hides_behind_it():
  logits, labels, where = _sample()
  hidden = np.where(where[:, None], logits, np.nan)
  np.testing.assert_allclose(
    _measure(hidden, labels, where=where)[1],
    _measure(logits[where], labels[where])[1],
    rtol=1e-6,
  )


def test_extremes():
  logits, labels, where = _sample()
  nothing = np.zeros_like(where)
  assert _measure(logits, labels, where=nothing)[1] == 0.0
  sure = np.where(labels[:, None] == np.arange(5), np.float32(0), -np.inf)
  sure = sure.astype(np.float32)
  assert _measure(sure, labels)[1] == 0.0
  assert _measure(sure, (labels + 1) % 5)[1] == 1.0
  large = np.where(np.isfinite(sure), np.float32(1e4), sure)
  assert _measure(large, labels)[0].count[-1] == 200
  # A model that diverged is not well calibrated.
  assert np.isnan(_measure(logits * np.float32(np.nan), labels)[1])


def test_shards_of_a_batch_give_the_value_of_the_whole():
  logits, labels, where = _sample()
  where[:50] = False  # the first shard has nothing but padding
  shards = (
    logits.reshape(4, 50, 5),
    labels.reshape(4, 50),
    where.reshape(4, 50),
  )
  metric = functools.partial(expected_calibration_error, axis_name="data")

  def of_shard(logits, labels, where):
    return metric(logits, labels, where=where)

  _, whole = _measure(logits, labels, where=where)
  got = jax.jit(jax.vmap(of_shard, axis_name="data"))(*shards)
  np.testing.assert_allclose(got, np.full(4, whole), rtol=1e-6)

  mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
  split, whole_array = jax.P("data"), jax.P()
  mapped = jax.shard_map(
    of_shard, mesh=mesh, in_specs=(split,) * 3, out_specs=whole_array
  )
  np.testing.assert_allclose(
    jax.jit(mapped)(logits, labels, where), whole, rtol=1e-6
  )


@pytest.mark.slow
def test_half_precision_vmap_and_batch_axes():
  logits, labels, _ = _sample()
  half = logits.astype(jnp.bfloat16)
  _, whole = _measure(half, labels)
  assert whole.dtype == jnp.float32
  assert whole == _measure(np.float32(half), labels)[1]
  axes = half.reshape(4, 50, 5), labels.reshape(4, 50)
  assert _measure(*axes)[1] == whole
  _, each = jax.jit(jax.vmap(_measure))(*axes)
  loop = [_measure(z, y)[1] for z, y in zip(*axes, strict=True)]
  np.testing.assert_allclose(each, loop, rtol=1e-6)


def test_errors_name_the_argument():
  logits, labels, where = _sample()
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    expected_calibration_error(logits, labels, where=where[:3])
  with pytest.raises(ValueError, match="num_bins is 0"):
    reliability_curve(logits, labels, num_bins=0)
