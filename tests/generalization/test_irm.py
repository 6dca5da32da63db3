"""Invariant risk minimization (IRM)."""

import jax
import numpy as np
import pytest

from kdjax.generalization import irm_penalty, sd_penalty
from tests import laws, oracles

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 5)).astype(np.float32)
SAME = np.zeros((16, 1), np.float32)
LABELS = RNG.integers(0, 5, 16)


def irm(logits, _, labels, **options):
  return irm_penalty(logits, labels, **options)


CASES = {
  "irm halves": laws.Case(
    irm, (LOGITS, SAME, LABELS), coupled=True, unused=(1,)
  ),
  "irm squared": laws.Case(
    irm,
    (LOGITS, SAME, LABELS),
    options={"form": "squared"},
    coupled=True,
    unused=(1,),
  ),
  "sd": laws.Case(
    lambda logits, _: sd_penalty(logits), (LOGITS, SAME), unused=(1,)
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def scale_gradients(logits, labels):
  """By central differences of the cross-entropy of scaled logits."""
  step = 1e-6
  up, down = (
    oracles.cross_entropy((1 + s) * logits, labels) for s in (step, -step)
  )
  return (up - down) / (2 * step)


@jax.jit
def both_forms(logits, labels):
  return irm_penalty(logits, labels), irm_penalty(
    logits, labels, form="squared"
  )


@pytest.mark.parametrize(("batch", "classes"), [(7, 4), (12, 2), (1, 3)])
def test_irm_is_the_gradient_by_a_dummy_scale(batch, classes):
  rng = np.random.default_rng(batch)
  logits = 4 * rng.normal(size=(3, batch, classes))
  labels = rng.integers(0, classes, (3, batch))
  with jax.enable_x64(True):
    halves, squared = both_forms(logits, labels)
    assert halves.shape == (3,)
    for d in range(3):
      slopes = scale_gradients(logits[d], labels[d])
      np.testing.assert_allclose(squared[d], slopes.mean() ** 2, rtol=1e-6)
      odd = slopes[1::2].mean() if batch > 1 else 0.0
      np.testing.assert_allclose(halves[d], slopes[::2].mean() * odd, rtol=1e-6)


@pytest.mark.slow
def test_irm_keeps_digits_and_bears_masked_classes():
  # Sure of the label, by a gap of 20: the slopes are tiny, not rounding.
  logits = np.float32([[1e4, 1e4 - 20.0], [1e4 - 20.0, 1e4]])
  labels = np.array([0, 1])
  slope = -20 * np.exp(-20) / (1 + np.exp(-20))
  run = jax.jit(jax.value_and_grad(irm_penalty))
  expected, _ = run(logits, labels)
  np.testing.assert_allclose(expected, slope**2, rtol=1e-5)
  masked = np.pad(logits, ((0, 0), (0, 1)), constant_values=-np.inf)
  value, gradient = run(masked, labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert np.all(np.isfinite(gradient))
