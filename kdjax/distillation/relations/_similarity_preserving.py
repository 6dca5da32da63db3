"""Similarity-preserving distillation (SP)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._batch_rows import (
  Pairs,
  Rows,
  batch_rows,
  pair_mean,
  pairs,
  products,
)
from kdjax.distillation._inputs import teacher_side


@ops.validate
def sp_loss(
  student_features: Float[Array, "batch ..."],
  teacher_features: Float[Array, "batch ..."],
  *,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Similarity-preserving (SP) loss: equal similarities within the batch.

  .. math::
    G = F F^\top, \qquad \hat G_{i} = G_{i} / \lVert G_{i} \rVert_2, \qquad
    \ell = \operatorname*{mean}_{ij} (\hat G^S_{ij} - \hat G^T_{ij})^2

  where a row of F is one example's whole feature map.

  Args:
    student_features: `[batch, ...]`, feature maps or embeddings.
    teacher_features: `[batch, ...]`; they receive no gradient. All axes but
      the batch may differ from the student's.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: as in `pkt_loss`.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 3000, on the last stage's map before pooling
    (RepDistiller). Since a row of unit norm has `batch` entries, the value
    shrinks like 1 / batch.

  Raises:
    ValueError: if the batch sizes differ.
    TypeError: if the features are not floating-point.

  torchdistill divides rows by their L1 norm, not the L2 norm of the paper and
  RepDistiller: its values are several times smaller.

  Examples:
    >>> maps = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> sp_loss(maps[:, None], 3.0 * maps)
    Array(0., dtype=float32)

  References:
    Tung and Mori, `Similarity-preserving knowledge distillation
    <https://arxiv.org/abs/1907.09682>`_, 2019.
  """
  teacher_features = teacher_side(teacher_features, stop_teacher_gradient)

  def gaps(student: Rows, teacher: Rows, pair: Pairs) -> Array:
    del pair  # masked rows are 0 already
    return jnp.square(
      ops.unit_vectors(products(student)) - ops.unit_vectors(products(teacher))
    )

  return pair_mean(
    gaps,
    batch_rows(student_features, where, axis_name),
    batch_rows(teacher_features, where, axis_name),
    pair=pairs(student_features, where, axis_name),
    chunk_size=chunk_size,
    axis_name=axis_name,
  )
