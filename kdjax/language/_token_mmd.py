"""Similarities between the tokens of two layers (TextBrewer's MMD)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops


@ops.validate
def token_mmd_loss(
  student_hidden: Sequence[ArrayLike],
  teacher_hidden: Sequence[ArrayLike],
  mask: Bool[Array, "batch tokens"]
  | Integer[Array, "batch tokens"]
  | None = None,
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Token MMD (TextBrewer): equal similarities between the tokens.

  .. math::
    \ell = \frac{\sum_{bij} m_{bi} m_{bj} (G^S_{bij} - G^T_{bij})^2}
                {\sum_b (\sum_i m_{bi})^2}, \qquad
    G = \frac{h \, {h'}^\top}{D}

  with h and h' two layers, or twice the same one. The widths D may differ, so
  no projection is needed.

  Args:
    student_hidden: the two layers, `[batch, tokens, width]` each.
    teacher_hidden: the teacher's two layers; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if no token is valid.

  Raises:
    ValueError: if there are not two layers on each side.

  Examples:
    >>> student, teacher = jnp.ones((1, 2, 3)), 2.0 * jnp.ones((1, 2, 5))
    >>> token_mmd_loss([student, student], [teacher, teacher])
    Array(9., dtype=float32)

  References:
    Huang and Wang, `Like what you like: knowledge distill via neuron
    selectivity transfer <https://arxiv.org/abs/1707.01219>`_, 2017, in the form
    of `TextBrewer <https://arxiv.org/abs/2002.12620>`_.
  """
  sides = {"student_hidden": student_hidden, "teacher_hidden": teacher_hidden}
  for name, layers in sides.items():
    if len(layers) != 2:
      raise ValueError(
        f"token_mmd_loss: {name} has {len(layers)} layers; expected 2."
      )
  grams = []
  tokens = jnp.asarray(student_hidden[0]).shape[:2]
  valid = jnp.ones(tokens, bool) if mask is None else mask.astype(bool)
  if where is not None:
    valid &= where[:, None]
  for layers in sides.values():
    first, second = (
      ops.zero_masked(x.astype(ops.compute_dtype(x)), valid)
      for x in map(jnp.asarray, layers)
    )
    grams.append(
      jnp.einsum("biw,bjw->bij", first, second, precision="highest")
      / first.shape[-1]
    )
  student, teacher = grams
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  pairs = valid[:, :, None] & valid[:, None, :]
  return ops.masked_mean(
    jnp.square(student - teacher), pairs, axis_name=axis_name
  )
