"""RKD, PKT, CC and SP against NumPy in float64, and their limits."""

import functools

import numpy as np
import pytest

from kdjax.distillation import cc_loss, pkt_loss, rkd_loss, sp_loss
from tests import laws

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(16, 6)).astype(np.float32)
TEACHER = RNG.normal(size=(16, 8)).astype(np.float32)
ALIKE = RNG.normal(size=(16, 6)).astype(np.float32)
MAPS = RNG.normal(size=(16, 2, 2, 6)).astype(np.float32)

CASES = {
  "rkd": laws.Case(
    rkd_loss,
    (STUDENT, TEACHER),
    {"distance_weight": 25.0, "angle_weight": 50.0},
    coupled=True,
  ),
  "pkt": laws.Case(pkt_loss, (STUDENT, TEACHER), coupled=True),
  "cc": laws.Case(cc_loss, (STUDENT, TEACHER), {"gamma": 0.4}, coupled=True),
  "cc adjacent": laws.Case(
    cc_loss, (STUDENT, ALIKE), options={"form": "adjacent"}, coupled=True
  ),
  "sp": laws.Case(sp_loss, (MAPS, TEACHER), coupled=True),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def huber(x):
  return np.where(abs(x) < 1, x**2 / 2, abs(x) - 0.5)


def unit(x):
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def rkd(student, teacher):
  def relations(x):
    gaps = x[None] - x[:, None]
    distances = np.linalg.norm(gaps, axis=-1)
    n = len(x)
    gaps = unit(gaps)
    return (
      distances / (distances.sum() / (n * n - n)),
      np.einsum("ijd,ikd->ijk", gaps, gaps),
    )

  (ds, cs), (dt, ct) = relations(student), relations(teacher)
  return 25 * huber(ds - dt).mean() + 50 * huber(cs - ct).mean()


def pkt(student, teacher):
  def probabilities(x):
    similarity = (unit(x) @ unit(x).T + 1) / 2
    return similarity / similarity.sum(1, keepdims=True)

  p, q = probabilities(teacher), probabilities(student)
  return np.mean(p * np.log(p / q))


def cc(student, teacher):
  def kernel(x):
    cosines, rate = unit(x) @ unit(x).T, 0.8
    return np.exp(-rate) * (1 + rate * cosines + (rate * cosines) ** 2 / 2)

  return np.mean((kernel(student) - kernel(teacher)) ** 2)


def cc_adjacent(student, teacher):
  gaps = abs(student - teacher)
  return np.mean([gaps[i] @ gaps[i + 1] for i in range(len(gaps) - 1)])


def sp(student, teacher):
  def similarity(x):
    x = x.reshape(len(x), -1)
    return unit(x @ x.T)

  gaps = similarity(student) - similarity(teacher)
  return (gaps**2).sum() / len(student) ** 2


ORACLES = {
  "rkd": rkd,
  "pkt": pkt,
  "cc": cc,
  "cc adjacent": cc_adjacent,
  "sp": sp,
}


@pytest.mark.parametrize("name", CASES)
def test_equals_numpy(name):
  case = CASES[name]
  kept = [np.float64(x)[case.mask] for x in case.arguments]
  value, _ = case.run()
  np.testing.assert_allclose(value, ORACLES[name](*kept), rtol=2e-5)


@pytest.mark.parametrize("name", ["rkd", "pkt", "cc", "sp"])
def test_similar_representations_cost_nothing(name):
  """Scaling and rotating keep all relations; shifting, RKD's too."""
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
  moved = np.float32(3 * TEACHER @ rotation + (name == "rkd") * 5.0)
  case = CASES[name]
  far, _ = case.run((-abs(TEACHER[::-1]), TEACHER), where=np.ones(16, bool))
  value, gradients = case.run((moved, TEACHER), where=np.ones(16, bool))
  assert abs(value) < 1e-6 * far
  assert np.max(abs(gradients[0])) < 1e-4 * far


def test_rkd_of_equal_points():
  """Equal points have a distance of 1e-6, and no direction."""
  case = CASES["rkd"]
  student = STUDENT.copy()
  student[3] = student[2]
  value, gradients = case.run((student, TEACHER))
  np.testing.assert_allclose(
    value,
    rkd(np.float64(student)[case.mask], np.float64(TEACHER)[case.mask]),
    rtol=1e-5,
  )
  assert np.all(np.isfinite(gradients[0]))
  assert np.max(abs(gradients[0])) < 100


def test_dead_channels_and_rows_of_zeros():
  """A network whose features died gets a finite gradient."""
  for case in CASES.values():
    student = case.arguments[0].copy()
    student[..., 1] = 0
    student[2] = 0
    value, gradients = case.run((student, case.arguments[1]))
    assert np.isfinite(value)
    assert np.max(abs(gradients[0])) < 1e3


def test_cc_adjacent_skips_what_is_masked():
  where = np.array([1, 0, 1, 1] * 4, bool)
  np.testing.assert_allclose(
    CASES["cc adjacent"].run(where=where)[0],
    cc_adjacent(STUDENT[where], ALIKE[where]),
    rtol=1e-5,
  )


def test_errors_say_what_came():
  with pytest.raises(ValueError, match="teacher_embeddings has shape"):
    laws.trace(rkd_loss, STUDENT, TEACHER[:4])
  with pytest.raises(TypeError, match="student_embeddings has dtype int32"):
    laws.trace(pkt_loss, np.ones((4, 2), np.int32), TEACHER)
  with pytest.raises(ValueError, match="form 'adjacent' expects"):
    laws.trace(cc_loss, STUDENT, TEACHER, form="adjacent")
  with pytest.raises(ValueError, match="form is 'gaussian'"):
    laws.trace(cc_loss, STUDENT, TEACHER, form="gaussian")
  with pytest.raises(ValueError, match="order is 0"):
    functools.partial(cc_loss, order=0)(STUDENT, TEACHER)
