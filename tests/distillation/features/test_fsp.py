"""Flow of solution procedure (FSP)."""

import jax
import numpy as np

from kdjax.distillation import fsp_loss

RNG = np.random.default_rng(0)


def maps(*shapes):
  return [RNG.normal(size=(16, *s)).astype(np.float32) for s in shapes]


STUDENT, TEACHER = (maps((4, 4, 3), (2, 2, 5)) for _ in range(2))


def test_flow_equals_the_paper():
  """The first map is twice as high and wide: its 2x2 blocks are averaged."""

  def flow(first, second):
    first = np.float64(first).reshape(16, 2, 2, 2, 2, -1).mean((2, 4))
    return np.einsum("bhwi,bhwj->bij", first, np.float64(second)) / 4

  difference = flow(*STUDENT) - flow(*TEACHER)
  expected = np.square(difference).mean((1, 2))
  for order in (1, -1):
    values = jax.jit(fsp_loss)(STUDENT[::order], TEACHER[::order])
    np.testing.assert_allclose(values, expected, rtol=1e-5)
