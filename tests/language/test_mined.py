"""MinED: nearest tokens, paired tokens, and the logits that they carry."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import language


def distance(a, b):
  """Levenshtein's distance as its definition says."""
  if not a or not b:
    return len(a) + len(b)
  return min(
    distance(a[1:], b[1:]) + (a[0] != b[0]),
    distance(a[1:], b) + 1,
    distance(a, b[1:]) + 1,
  )


def test_the_nearest_token_is_that_of_a_search_over_all():
  rng = np.random.default_rng(0)
  words = [
    "".join(rng.choice(list("abc"), rng.integers(0, 6))) for _ in range(60)
  ]
  source, target = words[:25], words[25:]
  expected = [int(np.argmin([distance(a, b) for b in target])) for a in source]
  np.testing.assert_array_equal(language.min_edit_ids(source, target), expected)


def test_paired_tokens_follow_the_text():
  student = ["dis", "till", "ing", "a", "models"]
  teacher = ["dist", "ill", "ing", "a", "model", "s"]
  np.testing.assert_array_equal(
    language.align_tokens(student, teacher), [0, 1, 2, 3, -1]
  )
  np.testing.assert_array_equal(
    language.align_tokens(student, student), np.arange(5)
  )


def test_equal_vocabularies_give_the_teachers_logits():
  logits = np.random.default_rng(0).normal(size=(1, 3, 5)).astype(np.float32)
  tokens = np.array([[1, 2, 4]])
  mapped, aligned = jax.jit(
    language.mined_logits, static_argnames="num_classes"
  )(
    logits,
    tokens,
    tokens,
    tokens,
    np.arange(3)[None],
    np.arange(5),
    num_classes=5,
  )
  np.testing.assert_array_equal(mapped, logits)
  assert np.all(aligned)


def test_several_tokens_of_the_teacher_give_the_largest_logit():
  logits = jnp.array([[[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]])
  mapped, aligned = language.mined_logits(
    logits,
    jnp.array([[1, 0, 1]]),
    jnp.array([[0, 1]]),
    jnp.array([[3, 2, 0]]),
    jnp.array([[0, 1, -1]]),
    jnp.array([1, 1, 0]),
    num_classes=4,
  )
  # The second token is no image of the teacher's; the third has no partner.
  np.testing.assert_array_equal(aligned, [[True, False, False]])
  np.testing.assert_array_equal(mapped[0, 0], [2.0, 3.0, -1e5, -1e5])
  np.testing.assert_array_equal(mapped[0, 1], [-1e5, -1e5, 100.0, -1e5])
