"""Hidden states of transformers, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distillation import (
  cosine_embedding_loss,
  gram_loss,
  hidden_mse_loss,
  pkd_loss,
)
from tests import laws

RNG = np.random.default_rng(0)
STUDENT, TEACHER, SECOND, TEACHER_SECOND = RNG.normal(
  size=(4, 16, 5, 6)
).astype(np.float32)
LENGTHS = RNG.integers(0, 6, 16)
MASK = (np.arange(5) < LENGTHS[:, None]).astype(int)
CASES = {
  "hidden": laws.Case(
    hidden_mse_loss, (STUDENT, TEACHER, MASK), coupled=True, partly=(0, 1)
  ),
  "cosine": laws.Case(
    cosine_embedding_loss,
    (STUDENT, TEACHER, MASK),
    coupled=True,
    partly=(0, 1),
  ),
  "pkd": laws.Case(pkd_loss, (STUDENT, TEACHER, MASK), partly=(0, 1)),
  "gram": laws.Case(
    gram_loss,
    ([STUDENT, SECOND], [TEACHER, TEACHER_SECOND], MASK),
    partly=(0, 1),
  ),
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def test_token_means_are_over_valid_tokens():
  student, teacher = np.float64(STUDENT), np.float64(TEACHER)
  squares = np.square(student - teacher).mean(2)
  cosine = (student * teacher).sum(2) / (
    np.linalg.norm(student, axis=2) * np.linalg.norm(teacher, axis=2)
  )
  for loss, values in (
    (hidden_mse_loss, squares),
    (cosine_embedding_loss, 1 - cosine),
  ):
    program = jax.jit(loss)
    np.testing.assert_allclose(
      program(STUDENT, TEACHER, MASK), values[MASK == 1].mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
      program(STUDENT, TEACHER), values.mean(), rtol=1e-5
    )
    assert program(STUDENT, TEACHER, 0 * MASK) == 0


def test_gram_equals_a_loop_over_examples():
  expected = []
  for i, length in enumerate(LENGTHS):
    grams = [
      np.float64(a[i, :length]).T @ np.float64(b[i, :length]) / max(length, 1)
      for a, b in ((STUDENT, SECOND), (TEACHER, TEACHER_SECOND))
    ]
    expected.append(np.square(grams[0] - grams[1]).mean())
  assert 0 in LENGTHS
  np.testing.assert_allclose(
    jax.jit(gram_loss)([STUDENT, SECOND], [TEACHER, TEACHER_SECOND], MASK),
    expected,
    rtol=1e-4,
  )


def test_what_padding_holds_does_not_matter():
  """NaN in a masked token reaches neither value nor gradient."""
  dirty = np.where(MASK[..., None] == 1, STUDENT, np.float32(np.nan))
  layers = [TEACHER, TEACHER_SECOND]
  for loss in (
    lambda x: hidden_mse_loss(x, TEACHER, MASK),
    lambda x: cosine_embedding_loss(x, TEACHER, MASK),
    lambda x: jnp.sum(pkd_loss(x, TEACHER, MASK)),
    lambda x: jnp.sum(gram_loss([x, SECOND], layers, MASK)),
  ):
    program = jax.jit(jax.value_and_grad(loss))
    jax.tree.map(
      np.testing.assert_array_equal, program(dirty), program(STUDENT)
    )


def test_one_token():
  one = STUDENT[:, :1], TEACHER[:, :1]
  hidden, grams = jax.jit(
    lambda s, t, m: (hidden_mse_loss(s, t, m), gram_loss([s] * 2, [t] * 2))
  )(*one, MASK[:, :1])
  assert np.isfinite(hidden)
  assert np.all(np.isfinite(grams))


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="mask has shape"):
    laws.trace(hidden_mse_loss, STUDENT, TEACHER, MASK[:, :4])
  with pytest.raises(ValueError, match="teacher_hidden has 1 layers"):
    laws.trace(gram_loss, [STUDENT, SECOND], [TEACHER])
  with pytest.raises(ValueError, match="teacher_first has shape"):
    laws.trace(gram_loss, [STUDENT, SECOND], [TEACHER[..., :3], TEACHER_SECOND])
  with pytest.raises(ValueError, match="teacher_hidden has shape"):
    laws.trace(cosine_embedding_loss, STUDENT, TEACHER[..., :3])
