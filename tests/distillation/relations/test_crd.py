"""CRD and its in-batch form against NumPy in float64, and their limits."""

import functools

import jax
import numpy as np
import pytest

from kdjax.distillation import crd_in_batch_loss, crd_loss, crd_normalizer
from tests import laws

RNG = np.random.default_rng(0)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


STUDENT, TEACHER = (
  unit(RNG.normal(size=(16, 6))).astype(np.float32) for _ in range(2)
)
NEGATIVES = unit(RNG.normal(size=(16, 5, 6))).astype(np.float32)
HYPER = {"num_examples": 40.0, "normalizer": 300.0, "temperature": 0.2}

CASES = {
  "crd": laws.Case(crd_loss, (STUDENT, TEACHER, NEGATIVES), HYPER),
  "in batch": laws.Case(
    crd_in_batch_loss, (STUDENT, TEACHER), {"temperature": 0.2}, coupled=True
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def crd(x, positive, negatives):
  noise = negatives.shape[1] / 40
  p, q = (
    np.exp(scores / 0.2) / 300
    for scores in (
      (x * positive).sum(1),
      np.einsum("bd,bkd->bk", x, negatives),
    )
  )
  return np.mean(
    -np.log(p / (p + noise + 1e-7)) - np.log(noise / (q + noise + 1e-7)).sum(1)
  )


def in_batch(x, y):
  scores = np.exp(unit(x) @ unit(y).T / 0.2)
  own = np.diag(scores)
  return -np.mean(np.log(own / scores.sum(0)) + np.log(own / scores.sum(1))) / 2


@pytest.mark.parametrize(
  ("name", "oracle"), [("crd", crd), ("in batch", in_batch)]
)
def test_equals_numpy(name, oracle):
  case = CASES[name]
  kept = [np.float64(x)[case.mask] for x in case.arguments]
  np.testing.assert_allclose(case.run()[0], oracle(*kept), rtol=1e-5)


def test_normalizer_is_a_mean_over_the_batch():
  where = np.arange(16) % 3 > 0
  scores = np.einsum(
    "bd,bkd->bk",
    np.float64(STUDENT),
    np.concatenate([TEACHER[:, None], NEGATIVES], 1),
  )
  expected = 40 * np.exp(scores / 0.2)[where].mean()
  arguments = STUDENT, TEACHER, NEGATIVES
  options = {"num_examples": 40, "temperature": 0.2}
  run = functools.partial(crd_normalizer, **options)
  value = jax.jit(run)(*arguments, where=where)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  shards = jax.tree.map(
    lambda a: a.reshape(8, 2, *a.shape[1:]), (*arguments, where)
  )
  mapped = jax.pmap(
    lambda *a: run(*a[:3], where=a[3], axis_name="batch"), "batch"
  )
  np.testing.assert_allclose(mapped(*shards), expected, rtol=1e-5)


def test_normalizer_is_exact_where_its_exponentials_are_not():
  """All scores -120, whose exponentials are 0 in float32, or 89, infinite."""
  program = jax.jit(crd_normalizer)
  ones = np.ones((2, 3, 1), np.float32)
  for score, size in ((-120.0, 1e30), (89.0, 1e-3)):
    value = program(
      np.float32(score) * ones[:, 0],
      ones[:, 0],
      ones,
      num_examples=size,
      temperature=1.0,
    )
    np.testing.assert_allclose(value, np.exp(score) * size, rtol=1e-4)


def test_crd_does_not_overflow():
  """Where a probability in float32 would be infinite or 0."""
  ones = np.ones((2, 1, 1), np.float32)
  values = jax.jit(crd_loss)(
    np.float32([[1.0], [-1.0]]),
    ones[:, 0],
    ones,
    num_examples=1,
    normalizer=1.0,
    temperature=1e-3,
  )
  np.testing.assert_allclose(values, 1000.0, rtol=1e-5)


def test_in_batch_tells_nothing_from_alike():
  alike = np.ones((16, 6), np.float32)
  value, gradients = CASES["in batch"].run(
    (alike, alike), where=np.arange(16) < 11
  )
  np.testing.assert_allclose(value, np.log(11), rtol=1e-5)
  assert np.all(np.isfinite(gradients[0]))
  value, _ = CASES["in batch"].run(where=np.arange(16) == 3)
  np.testing.assert_allclose(value, 0, atol=1e-6)


def test_errors_say_what_came():
  with pytest.raises(ValueError, match="negatives has shape"):
    laws.trace(crd_loss, STUDENT, TEACHER, NEGATIVES[:, :, :3], **HYPER)
  with pytest.raises(ValueError, match="normalizer is -1"):
    laws.trace(
      crd_loss, STUDENT, TEACHER, NEGATIVES, **(HYPER | {"normalizer": -1.0})
    )
  with pytest.raises(ValueError, match="temperature is 0"):
    laws.trace(crd_in_batch_loss, STUDENT, TEACHER, temperature=0.0)
