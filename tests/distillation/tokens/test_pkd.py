"""Patient knowledge distillation (PKD)."""

import jax
import numpy as np

from kdjax.distillation import pkd_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER, SECOND, TEACHER_SECOND = RNG.normal(
  size=(4, 16, 5, 6)
).astype(np.float32)
LENGTHS = RNG.integers(0, 6, 16)
MASK = (np.arange(5) < LENGTHS[:, None]).astype(int)


def test_first_tokens_directions():
  """Twice one minus the cosine, of the first token or of the embedding."""
  student, teacher = np.float64(STUDENT[:, 0]), np.float64(TEACHER[:, 0])
  cosine = (student * teacher).sum(1) / (
    np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
  )
  expected = 2 * (1 - cosine)
  states, firsts = (STUDENT, TEACHER), (STUDENT[:, 0], TEACHER[:, 0])
  for arguments, values in (
    (states, expected),
    (firsts, expected),
    ((*states, MASK), expected * MASK[:, 0]),
    ((*firsts, MASK), expected * MASK[:, 0]),
  ):
    np.testing.assert_allclose(jax.jit(pkd_loss)(*arguments), values, rtol=1e-4)
