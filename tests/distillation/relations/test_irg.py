"""IRG against NumPy in float64; the recorded case is in test_recorded."""

import functools

import jax
import numpy as np
import pytest

from kdjax.distillation import irg_loss
from tests import laws

RNG = np.random.default_rng(0)


def side(dims, first, second):
  shapes = [(16, dims), (16, 4, 4, first), (16, 2, 2, second), (16, 3)]
  return [RNG.normal(size=shape).astype(np.float32) for shape in shapes]


STUDENT, TEACHER = side(6, 2, 4), side(8, 4, 8)


def graph(student, teacher, **options):
  return irg_loss(
    *(student[0], teacher[0]),
    *(student[1:3], teacher[1:3]),
    *(student[3], teacher[3]),
    **options,
  )


CASE = laws.Case(
  graph,
  (STUDENT, TEACHER),
  {"vertex_weight": 0.1, "edge_weight": 5.0, "transformation_weight": 4.0},
  coupled=True,
)


@pytest.mark.parametrize(("name", "law"), laws.pairs({"irg": CASE}))
def test_law(name, law):
  law(CASE)


def oracle(student, teacher):
  def edges(x):
    x = x.reshape(len(x), -1)
    squared = ((x[None] - x[:, None]) ** 2).sum(-1)
    return squared / squared.max()

  def path(first, second):
    b, h, w, _ = second.shape
    first = first.reshape(b, h, 2, w, 2, -1).mean((2, 4))
    second = second.reshape(b, h, w, first.shape[-1], -1).mean(-1)
    squared = ((first - second) ** 2).reshape(b, -1).sum(1)
    return squared / squared.max()

  edge = np.mean(
    [
      ((edges(s) - edges(t)) ** 2).mean()
      for s, t in zip(student[:3], teacher[:3], strict=True)
    ]
  )
  vertex = ((student[3] - teacher[3]) ** 2).mean()
  paths = ((path(*student[1:3]) - path(*teacher[1:3])) ** 2).mean()
  return 0.1 * vertex + 5 * edge + 4 * paths


def test_equals_numpy():
  kept = [[np.float64(x)[CASE.mask] for x in s] for s in (STUDENT, TEACHER)]
  np.testing.assert_allclose(CASE.run()[0], oracle(*kept), rtol=1e-5)


def test_two_embeddings_alone_give_their_edges():
  weights = {"vertex_weight": 9.0, "edge_weight": 15.0}
  alone = jax.jit(functools.partial(irg_loss, **weights))
  rows = [np.float64(side[0]) for side in (STUDENT, TEACHER)]
  squares = [((x[None] - x[:, None]) ** 2).sum(-1) for x in rows]
  gaps = squares[0] / squares[0].max() - squares[1] / squares[1].max()
  np.testing.assert_allclose(
    alone(STUDENT[0], TEACHER[0]), 15 * (gaps**2).mean(), rtol=1e-5
  )


def test_errors_say_what_came():
  with pytest.raises(ValueError, match="teacher_logits is None; expected"):
    laws.trace(irg_loss, STUDENT[0], TEACHER[0], student_logits=STUDENT[3])
  with pytest.raises(ValueError, match="student_maps have shapes"):
    laws.trace(irg_loss, STUDENT[0], TEACHER[0], STUDENT[:2], TEACHER[1:3])
