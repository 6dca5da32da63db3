"""Regional logits and SDD: laws, oracles and limits."""

import functools

import jax
import numpy as np
import pytest

from kdjax.distillation import (
  dkd_loss,
  nkd_loss,
  regional_logits,
  sdd_loss,
  soft_target_loss,
)
from tests import laws

RNG = np.random.default_rng(3)
STUDENT, TEACHER = (3 * RNG.normal(size=(2, 16, 5, 6))).astype(np.float32)
LABELS = RNG.integers(0, 6, 16)
LABELS[::2] = TEACHER[::2, 0].argmax(-1)

CASES = {
  "sdd": laws.Case(
    sdd_loss,
    (STUDENT, TEACHER, LABELS),
    {"temperature": 3.0, "complementary_weight": 2.0},
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


INNER = {
  "kd": lambda s, t, y: soft_target_loss(s, t),
  "dkd": dkd_loss,
  "nkd": nkd_loss,
}


@pytest.mark.parametrize("inner", INNER)
def test_equals_the_weighted_mean_over_regions(inner):
  expected, region = np.zeros(16), jax.jit(INNER[inner])
  right = TEACHER.argmax(-1) == LABELS[:, None]
  assert 0 < (right != right[:, :1]).sum() < right.size
  for r in range(5):
    weight = np.where(right[:, r] != right[:, 0], 3.0, 1.0)
    values = region(STUDENT[:, r], TEACHER[:, r], LABELS)
    expected += weight * np.asarray(values) / 5
  loss = functools.partial(sdd_loss, inner=inner, complementary_weight=3.0)
  values = jax.jit(loss)(STUDENT, TEACHER, LABELS)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_regions_of_a_map():
  maps = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
  kernel, bias = RNG.normal(size=(3, 6)), RNG.normal(size=6)
  logits = jax.jit(regional_logits)(maps, np.float32(kernel), np.float32(bias))
  assert logits.shape == (2, 21, 6)
  cells = (maps, maps[:, 4:, :4], maps[:, 6:, 6:])
  for region, cell in zip((0, 3, 20), cells, strict=True):
    np.testing.assert_allclose(
      np.asarray(logits)[:, region],
      cell.mean((1, 2)) @ kernel + bias,
      rtol=1e-4,
      atol=1e-5,
    )


def test_coarse_grids_are_pooled_from_four():
  """Whose cells overlap on a map of 7x7: rows 0-1, 1-3, 3-5 and 5-6."""
  maps = RNG.normal(size=(2, 7, 7, 3)).astype(np.float32)
  bins = np.zeros((4, 7))
  for row, (start, end) in enumerate(((0, 2), (1, 4), (3, 6), (5, 7))):
    bins[row, start:end] = 1 / (end - start)
  cells = np.einsum("uh,vw,bhwc->buvc", bins, bins, maps)
  quarters = cells.reshape(2, 2, 2, 2, 2, 3).mean((2, 4)).reshape(2, 4, 3)
  expected = np.concatenate([cells.mean((1, 2))[:, None], quarters], 1)
  logits = jax.jit(functools.partial(regional_logits, grids=(1, 2)))(
    maps, np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
  )
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)


def test_errors():
  with pytest.raises(ValueError, match="inner is 'at'; expected one of"):
    laws.trace(sdd_loss, STUDENT, TEACHER, LABELS, inner="at")
  with pytest.raises(ValueError, match=r"complementary_weight has shape \(21,"):
    laws.trace(
      sdd_loss, STUDENT, TEACHER, LABELS, complementary_weight=np.ones(21)
    )
  with pytest.raises(ValueError, match="the whole image, as the first grid"):
    laws.trace(
      regional_logits,
      np.ones((2, 8, 8, 3)),
      np.ones((3, 6)),
      np.ones(6),
      grids=(2, 4),
    )
