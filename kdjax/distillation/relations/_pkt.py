"""Probabilistic knowledge transfer (PKT)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.distillation._batch_rows import Pairs
from kdjax.distillation._batch_rows import Rows
from kdjax.distillation._batch_rows import batch_rows
from kdjax.distillation._batch_rows import pair_mean
from kdjax.distillation._batch_rows import pairs
from kdjax.distillation._batch_rows import products
from kdjax.distillation._batch_rows import unit_rows
from kdjax.distillation._teacher_side import teacher_side
from kdjax.ops import nonzero_divisor
from kdjax.ops import validate


@validate
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
    where: `[batch]`, which examples count.
    chunk_size: how many rows of the matrices of pairs are held at a time, in
      the backward pass too; a static integer. None holds them whole. Values
      differ by rounding only.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar: the mean over all pairs, not the divergence of a row. Hence the
    published weight of 30000, for batches of 64; as the batch grows, the value
    shrinks like 1 / batch.

  Raises:
    ValueError: if the batches differ.
    TypeError: if the embeddings are not floating-point.

  Differs from published codes in the gradient of a zero row, NaN there and 0
  here, and in float32 by fewer canceled digits.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> print(f"{pkt_loss(rows, 3.0 * rows):.6f}")
    0.000000

  References:
    Passalis and Tefas, `Learning deep representations with probabilistic
    knowledge transfer <https://arxiv.org/abs/1803.10837>`_, 2018.
  """
  eps = 1e-7
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)

  def neighbours(rows: Rows, pair: Pairs) -> Array:
    similarity = jnp.where(pair.counted, (1 + products(rows)) / 2, 0.0)
    return similarity / nonzero_divisor(jnp.sum(similarity, 1, keepdims=True))

  def divergences(student: Rows, teacher: Rows, pair: Pairs) -> Array:
    near_teacher = neighbours(teacher, pair)
    # The rows of `gap` add up to 0, so adding it to each term changes nothing
    # but the rounding: what is left of a term is second-order small.
    gap = neighbours(student, pair) - near_teacher
    return gap - near_teacher * jnp.log1p(gap / (near_teacher + eps))

  return pair_mean(
    divergences,
    unit_rows(batch_rows(student_embeddings, where, axis_name), eps),
    unit_rows(batch_rows(teacher_embeddings, where, axis_name), eps),
    pair=pairs(student_embeddings, where, axis_name),
    chunk_size=chunk_size,
    axis_name=axis_name,
  )
