"""Distillation by singular value decomposition (KD-SVD)."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import fsp_loss, kdsvd_loss
from tests import laws

RNG = np.random.default_rng(0)


def maps(*shapes):
  return [RNG.normal(size=(16, *s)).astype(np.float32) for s in shapes]


STUDENT, TEACHER = (maps((4, 4, 3), (2, 2, 5)) for _ in range(2))
CASES = {
  "fsp": laws.Case(fsp_loss, (STUDENT, TEACHER)),
  "kdsvd": laws.Case(kdsvd_loss, (STUDENT, TEACHER), tolerance=1e-3),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def oracle_kdsvd(student, teacher, k):
  """One example, in float64, vector by vector."""

  def vectors(side):
    matrix = np.float64(side).reshape(-1, side.shape[-1])
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    return values, rows

  stages = []
  for ours, theirs in zip(student, teacher, strict=True):
    values, target = vectors(theirs)
    candidates = vectors(ours)[1][: k + 3]
    scale = values[:k] / np.linalg.norm(values[:k])
    aligned = []
    for row in target[:k]:
      cosines = candidates @ row
      best = np.argmax(np.abs(cosines))
      aligned.append(np.sign(cosines[best]) * candidates[best])
    stages.append([scale[:, None] * np.array(v) for v in (aligned, target[:k])])
  total = 0.0
  for (a, b), (c, d) in itertools.pairwise(stages):
    for ours, theirs, ours_next, theirs_next in zip(a, b, c, d, strict=True):
      total += np.square(
        np.exp(-(np.subtract.outer(ours_next, ours) ** 2) / 8)
        - np.exp(-(np.subtract.outer(theirs_next, theirs) ** 2) / 8)
      ).sum()
  return total


@pytest.mark.parametrize("k", [1, 2])
def test_singular_vectors_equal_the_paper(k):
  with jax.enable_x64(True):
    student, teacher = (
      [np.float64(x[:3]) for x in side] for side in (STUDENT, TEACHER)
    )
    got = jax.jit(functools.partial(kdsvd_loss, k=k))(student, teacher)
  for i in range(3):
    expected = oracle_kdsvd([x[i] for x in STUDENT], [x[i] for x in TEACHER], k)
    np.testing.assert_allclose(got[i], expected, rtol=1e-6)


@jax.jit
@jax.value_and_grad
def two_vectors(student, teacher):
  return jnp.sum(kdsvd_loss(student, teacher, k=2))


@pytest.mark.parametrize(
  "special",
  [
    np.zeros((4, 4, 3)),
    np.ones((4, 4, 3)),  # rank one
    1e-25 * RNG.normal(size=(4, 4, 3)),  # squares underflow
    np.eye(16, 3).reshape(4, 4, 3),  # equal singular values
    np.eye(16, 3).reshape(4, 4, 3) * (1 + 1e-7 * np.arange(3)),  # almost
  ],
)
def test_degenerate_maps_have_finite_gradients(special):
  special = np.broadcast_to(np.float32(special), (16, 4, 4, 3))
  value, gradients = jax.device_get(two_vectors([special, STUDENT[1]], TEACHER))
  assert np.isfinite(value)
  for leaf in gradients:
    assert np.all(np.abs(leaf) * (np.max(special) or 1) < 1e4)


@pytest.mark.slow
def test_maps_of_one_position():
  one = [x[:, :1, :1] for x in STUDENT]
  program = jax.jit(
    jax.value_and_grad(lambda s: jnp.sum(kdsvd_loss(s, TEACHER)))
  )
  value, gradients = jax.device_get(program(one))
  assert np.all([np.all(np.isfinite(x)) for x in (value, *gradients)])
  with pytest.raises(ValueError, match="k is 2; expected at most 1"):
    kdsvd_loss(one, TEACHER, k=2)


@pytest.mark.parametrize("loss", [fsp_loss, kdsvd_loss])
def test_errors_name_the_argument(loss):
  with pytest.raises(ValueError, match=r"teacher_features\[1\] has shape"):
    laws.trace(loss, STUDENT, [TEACHER[0], TEACHER[1][..., :4]])
  with pytest.raises(ValueError, match="teacher_features holds 1 maps"):
    laws.trace(loss, STUDENT, TEACHER[:1])
  with pytest.raises(ValueError, match="student_features holds 1 maps"):
    laws.trace(loss, STUDENT[:1], TEACHER[:1])
  with pytest.raises(ValueError, match=r"student_features\[0\] has shape"):
    laws.trace(loss, [x[0] for x in STUDENT], TEACHER)
  with pytest.raises(TypeError, match=r"student_features\[0\] has dtype int"):
    laws.trace(loss, [np.int32(x) for x in STUDENT], TEACHER)
