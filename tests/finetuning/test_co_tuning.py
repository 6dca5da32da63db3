"""Co-Tuning against NumPy, and as sums over devices."""

import jax
import numpy as np
import pytest

from kdjax.finetuning import co_tuning_loss, co_tuning_targets
from tests import laws

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.ones(4), 16).astype(np.float32)
LABELS = RNG.permutation(np.arange(16) % 3)
LOGITS = RNG.normal(size=(16, 4)).astype(np.float32)
CASES = {
  "co_tuning": laws.Case(
    co_tuning_loss, (LOGITS, PROBABILITIES), extremes=(0.0, 1e-4, 1e4)
  )
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_targets_are_class_means():
  expected = [np.float64(PROBABILITIES)[c == LABELS].mean(0) for c in range(3)]
  # Of known labels, and with them the number of classes.
  targets = co_tuning_targets(PROBABILITIES, LABELS)
  np.testing.assert_allclose(targets, expected, rtol=1e-6)
  np.testing.assert_allclose(np.sum(targets, 1), 1.0, rtol=1e-6)
  wide = jax.jit(co_tuning_targets, static_argnames="num_classes")(
    PROBABILITIES, LABELS, num_classes=5
  )
  wide = np.asarray(wide)
  np.testing.assert_allclose(wide[:3], expected, rtol=1e-6)
  np.testing.assert_array_equal(wide[3:], 0)


def test_targets_over_devices_and_masks():
  where = np.arange(16) % 5 != 0
  spoiled = np.where(where[:, None], PROBABILITIES, np.nan)
  kept, labels = np.float64(PROBABILITIES[where]), LABELS[where]
  expected = [kept[c == labels].mean(0) for c in range(3)]

  def targets(p, y, w):
    return co_tuning_targets(p, y, num_classes=3, where=w, axis_name="batch")

  split = [x.reshape(8, 2, *x.shape[1:]) for x in (spoiled, LABELS, where)]
  for result in jax.jit(jax.vmap(targets, axis_name="batch"))(*split):
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_loss_in_numpy():
  z = np.float64(LOGITS)
  log_q = z - np.log(np.exp(z).sum(1, keepdims=True))
  expected = -(np.float64(PROBABILITIES) * log_q).sum(1)
  np.testing.assert_allclose(
    jax.jit(co_tuning_loss)(LOGITS, PROBABILITIES), expected, rtol=1e-5
  )


def test_an_unknown_number_of_classes_is_an_error():
  with pytest.raises(ValueError, match="num_classes is None; expected an int"):
    jax.jit(co_tuning_targets)(PROBABILITIES, LABELS)
  with pytest.raises(ValueError, match=r"target_labels has shape \(3,\)"):
    co_tuning_targets(PROBABILITIES, LABELS[:3])
