"""Universal logit distillation (ULD), between any two tokenizers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def uld_loss(
  student_logits: Float[Array, "batch student_length student_vocab"],
  teacher_logits: Float[Array, "batch teacher_length teacher_vocab"],
  student_where: Bool[Array, "batch student_length"] | None = None,
  teacher_where: Bool[Array, "batch teacher_length"] | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Universal logit distillation (ULD): distance of sorted probabilities.

  .. math::
    \ell = \frac{1}{N} \sum_{k=1}^{N} \sum_c
      \left| P_{k(c)} - Q_{k(c)} \right|

  where P and Q are sorted in descending order, the smaller vocabulary is filled
  up with zeros, and the k-th valid position of the student meets the k-th of
  the teacher. N is the smaller number of valid positions. Lengths and
  vocabularies may differ, so the tokenizers may too.

  Args:
    student_logits: `[batch, student_length, student_vocab]`.
    teacher_logits: `[batch, teacher_length, teacher_vocab]`; they receive no
      gradient.
    student_where: `[batch, student_length]`, True for the positions whose
      logits predict a token of the answer (`next_token_targets`); None takes
      all.
    teacher_where: `[batch, teacher_length]`, the same for the teacher.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in [0, 2]; 0 if a side has no valid position.
    Published weight: 1.5, beside a cross-entropy of weight 1.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the logits are not floating-point.

  The published code takes a mean over the common positions, as here; DSKD's
  and TRL's code sum over tokens, and TRL does not shift by default.

  Examples:
    >>> student = jnp.log(jnp.array([[[0.5, 0.25, 0.25]]]))
    >>> teacher = jnp.log(jnp.array([[[0.25, 0.75]]]))
    >>> uld_loss(student, teacher)
    Array([0.5], dtype=float32)

  References:
    Boizard et al., `Towards cross-tokenizer distillation: the universal logit
    distillation loss for LLMs <https://arxiv.org/abs/2402.12030>`_, 2025.
  """
  if stop_teacher_gradient:
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
  dtype = jnp.promote_types(
    ops.compute_dtype(student_logits), ops.compute_dtype(teacher_logits)
  )
  student, student_count = _packed(student_logits.astype(dtype), student_where)
  teacher, teacher_count = _packed(teacher_logits.astype(dtype), teacher_where)
  length = min(student.shape[1], teacher.shape[1])
  vocab = max(student.shape[2], teacher.shape[2])
  student, teacher = (
    jnp.pad(x[:, :length], ((0, 0), (0, 0), (0, vocab - x.shape[2])))
    for x in (student, teacher)
  )
  count = jnp.minimum(student_count, teacher_count)
  common = jnp.arange(length)[None] < count[:, None]
  distance = jnp.sum(ops.safe_abs(student - teacher), -1)
  total = jnp.sum(jnp.where(common, distance, 0.0), -1)
  return total / jnp.maximum(count, 1).astype(dtype)


def _packed(logits: Array, where: Array | None) -> tuple[Array, Array]:
  """Returns sorted probabilities, valid positions first, and their number."""
  batch, length, _ = logits.shape
  if where is None:
    count = jnp.full(batch, length)
  else:
    count = jnp.sum(where, 1)
    first = jnp.argsort(~where, 1, stable=True)
    # Masked logits become 0: NaN times a gradient of 0 would be NaN.
    logits = jnp.where(where[..., None], logits, 0.0)
    logits = jnp.take_along_axis(logits, first[..., None], 1)
  return -jnp.sort(-ops.softened_softmax(logits), -1), count
