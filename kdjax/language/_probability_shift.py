"""Probability shift: the teacher's largest logit for the label."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from kdjax import ops


@ops.validate
def probability_shift(
  teacher_logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
) -> Float[Array, "*batch classes"]:
  r"""Probability shift: swaps the teacher's largest logit with the label's.

  .. math::
    \tilde z_y = \max_c z_c, \qquad \tilde z_{\arg\max_c z_c} = z_y

  The teacher then is never wrong, and its other logits do not change.

  Args:
    teacher_logits: `[*batch, classes]`.
    labels: integers `[*batch]`; a row with a label outside [0, classes), such
      as -100, does not change.

  Returns:
    `[*batch, classes]`, a permutation of each row.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the labels are not integers.

  TextBrewer changes the teacher's array in place; this function does not.

  Examples:
    >>> probability_shift(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([1]))
    Array([[1., 3., 2.]], dtype=float32)

  References:
    Wen, Lai and Qian, `Preparing lessons: improve knowledge distillation with
    better supervision <https://arxiv.org/abs/1911.07471>`_, 2019, in the form
    of `TextBrewer <https://arxiv.org/abs/2002.12620>`_.
  """
  classes = teacher_logits.shape[-1]
  known = (labels >= 0) & (labels < classes)
  top = jnp.argmax(teacher_logits, -1)
  label = jnp.where(known, labels, top)[..., None]
  own = jnp.take_along_axis(teacher_logits, label, -1)
  largest = jnp.max(teacher_logits, -1, keepdims=True)
  is_top, is_label = (
    jax.nn.one_hot(x, classes, dtype=bool) for x in (top, label[..., 0])
  )
  return jnp.where(is_label, largest, jnp.where(is_top, own, teacher_logits))
