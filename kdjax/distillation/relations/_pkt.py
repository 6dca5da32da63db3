"""Probabilistic knowledge transfer (PKT)."""

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
  unit_rows,
)
from kdjax.distillation._inputs import teacher_side


@ops.validate
def pkt_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  *,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Probabilistic knowledge transfer (PKT): equal neighbor probabilities.

  .. math::
    p_{ij} = \frac{(1 + \cos(x_i, x_j)) / 2}
                  {\sum_k (1 + \cos(x_i, x_k)) / 2}, \qquad
    \ell = \operatorname*{mean}_{ij}
      p^T_{ij} \log \frac{p^T_{ij} + \epsilon}{p^S_{ij} + \epsilon}

  with epsilon = 1e-7, which is also added to the norms.

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: how many rows of the matrices of pairs are in memory at a time,
      in the backward pass too; a static integer. None computes all rows at
      once. Values differ by rounding only.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar: the mean over all pairs, not the divergence of a row. Hence the
    published weight of 30000, for batches of 64; as the batch grows, the value
    shrinks like 1 / batch.

  Raises:
    ValueError: if the batch sizes differ.
    TypeError: if the embeddings are not floating-point.

  The gradient of a zero row is 0 here and NaN in published codes. In float32
  fewer digits cancel here.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> print(f"{pkt_loss(rows, 3.0 * rows):.6f}")
    0.000000

  References:
    Passalis and Tefas, `Learning deep representations with probabilistic
    knowledge transfer <https://arxiv.org/abs/1803.10837>`_, 2018.
  """
  epsilon = 1e-7
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)

  def neighbors(rows: Rows, pair: Pairs) -> Array:
    similarity = jnp.where(pair.valid, (1 + products(rows)) / 2, 0.0)
    return similarity / ops.nonzero_divisor(
      jnp.sum(similarity, 1, keepdims=True)
    )

  def divergences(student: Rows, teacher: Rows, pair: Pairs) -> Array:
    near_teacher = neighbors(teacher, pair)
    # The rows of `gap` add up to 0, so adding `gap` does not change the sum;
    # each term becomes small of second order, with less rounding error.
    gap = neighbors(student, pair) - near_teacher
    return gap - near_teacher * jnp.log1p(gap / (near_teacher + epsilon))

  return pair_mean(
    divergences,
    unit_rows(batch_rows(student_embeddings, where, axis_name), epsilon),
    unit_rows(batch_rows(teacher_embeddings, where, axis_name), epsilon),
    pair=pairs(student_embeddings, where, axis_name),
    chunk_size=chunk_size,
    axis_name=axis_name,
  )
