"""Information-theoretic representation distillation (ITRD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._batch_rows import (
  Pairs,
  Rows,
  batch_rows,
  flat_rows,
  over_rows,
  pairs,
  products,
  unit_rows,
)
from kdjax.distillation._inputs import teacher_side


@ops.validate
def itrd_loss(
  student_embeddings: Float[Array, "batch dims"],
  teacher_embeddings: Float[Array, "batch dims"],
  *,
  correlation_weight: ArrayLike = 2.0,
  mutual_weight: ArrayLike = 0.05,
  alpha: ArrayLike = 1.5,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Information-theoretic representation distillation (ITRD): both terms.

  .. math::
    \ell = w_C \, \ell_\text{corr} + w_M \, \ell_\text{mutual}

  with `itrd_correlation_loss` and `itrd_mutual_loss`.

  Args:
    student_embeddings: `[batch, dims]`.
    teacher_embeddings: `[batch, dims]`; they receive no gradient.
    correlation_weight: the weight of the first term. May be traced.
    mutual_weight: the weight of the second term. May be traced.
    alpha: the order of the first term, above 0. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: as in `itrd_mutual_loss`.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar, which may be negative. The default weights and alpha are those of
    the authors' program; for two networks of one architecture they use 2, 1 and
    1.01.

  Raises:
    ValueError: if the shapes differ, or a static alpha is not above 0.
    TypeError: if the embeddings are not floating-point.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> print(f"{itrd_loss(rows, rows):.1f}")
    -4.0

  References:
    Miles, Lopez Rodriguez and Mikolajczyk, `Information theoretic
    representation distillation <https://arxiv.org/abs/2112.00459>`_, 2022.
  """
  rest = {
    "where": where,
    "axis_name": axis_name,
    "stop_teacher_gradient": stop_teacher_gradient,
  }
  correlation = itrd_correlation_loss(
    student_embeddings, teacher_embeddings, alpha=alpha, **rest
  )
  mutual = itrd_mutual_loss(
    student_embeddings, teacher_embeddings, chunk_size=chunk_size, **rest
  )
  dtype = correlation.dtype
  return (
    ops.as_number("correlation_weight", correlation_weight, dtype) * correlation
    + ops.as_number("mutual_weight", mutual_weight, dtype) * mutual
  )


@ops.validate
def itrd_correlation_loss(
  student_embeddings: Float[Array, "batch dims"],
  teacher_embeddings: Float[Array, "batch dims"],
  *,
  alpha: ArrayLike = 1.5,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Correlation term of ITRD: correlation of each feature with the teacher's.

  .. math::
    \ell_\text{corr} = \log_2 \sum_c \lvert r_c - 1 \rvert^{2 \alpha}, \qquad
    r_c = \frac1n \sum_i \hat x^S_{ic} \hat x^T_{ic}

  where the hat standardizes a feature over the batch, with a variance that
  divides by n - 1. So r is at most 1 - 1/n, and the loss at least log2(dims) -
  2 alpha log2(n).

  Args:
    student_embeddings: `[batch, dims]`.
    teacher_embeddings: `[batch, dims]`; they receive no gradient.
    alpha: the order of the Renyi entropy, above 0. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 2.

  Raises:
    ValueError: if the shapes differ, or a static alpha is not above 0.
    TypeError: if the embeddings are not floating-point.

  A feature that is constant over the batch has correlation 0 here and NaN in
  the authors' code.

  Examples:
    >>> rows = jnp.array([[1.0], [2.0]])
    >>> itrd_correlation_loss(rows, rows, alpha=1.0)
    Array(-2., dtype=float32)

  References:
    Miles, Lopez Rodriguez and Mikolajczyk, `Information theoretic
    representation distillation <https://arxiv.org/abs/2112.00459>`_, 2022, and
    their `code <https://github.com/roymiles/ITRD>`_.
  """
  ops.check_positive("alpha", alpha)
  mask = (
    jnp.ones(student_embeddings.shape[:1], bool) if where is None else where
  )
  count = ops.sum_over_devices(jnp.sum(mask), axis_name)

  def standardized(x: Array) -> Array:
    rows = flat_rows(x, where)
    mean = ops.sum_over_devices(jnp.sum(rows, 0), axis_name) / jnp.maximum(
      count, 1
    )
    rows = jnp.where(mask[:, None], rows - mean[None], 0.0)
    squares = ops.sum_over_devices(jnp.sum(jnp.square(rows), 0), axis_name)
    variance = squares / jnp.maximum(count - 1, 1)
    varies = (variance != 0)[None]
    deviation = jnp.sqrt(jnp.where(varies, variance[None], 1.0))
    return jnp.where(varies, rows, 0.0) / deviation

  student = standardized(student_embeddings)
  teacher = standardized(
    teacher_side(teacher_embeddings, stop_teacher_gradient)
  )
  correlation = ops.sum_over_devices(jnp.sum(student * teacher, 0), axis_name)
  gaps = jnp.square(correlation / jnp.maximum(count, 1) - 1)
  order = ops.as_number("alpha", alpha, gaps.dtype)
  loss = jnp.log2(jnp.sum(jnp.power(gaps, order)))
  return jnp.where(count > 0, loss, 0.0)


@ops.validate
def itrd_mutual_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  *,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Mutual-information term of ITRD, from similarities between examples.

  .. math::
    \ell_\text{mutual} = \sum_{ij} \hat G_{ij}^2 - \sum_{ij} \hat J_{ij}^2,
    \qquad \hat G = \frac{G^S}{\operatorname{tr} G^S}, \quad
    \hat J = \frac{G^S \circ G^T}{\operatorname{tr} (G^S \circ G^T)}

  where G is the matrix of the cosines between examples.

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: how many rows of the matrices of pairs are in memory at a time,
      in the backward pass too; a static integer. None computes all rows at
      once.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 0.05, or 1 for two networks of one architecture.

  Raises:
    ValueError: if the batch sizes differ.
    TypeError: if the embeddings are not floating-point.

  The paper's Renyi entropies of order 2 take the logarithm of both sums; the
  authors' code and this code do not.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> itrd_mutual_loss(rows, rows)
    Array(0., dtype=float32)

  References:
    Miles, Lopez Rodriguez and Mikolajczyk, `Information theoretic
    representation distillation <https://arxiv.org/abs/2112.00459>`_, 2022,
    and their `code <https://github.com/roymiles/ITRD>`_.
  """
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)
  student, teacher = (
    unit_rows(batch_rows(x, where, axis_name))
    for x in (student_embeddings, teacher_embeddings)
  )

  def row_sums(student: Rows, teacher: Rows, _: Pairs) -> tuple[Array, Array]:
    similarity = products(student)
    joint = similarity * products(teacher)
    return jnp.sum(jnp.square(similarity), 1), jnp.sum(jnp.square(joint), 1)

  def normalized_sum(squares: Array, diagonal: Array) -> Array:
    squares = ops.sum_over_devices(jnp.sum(squares), axis_name)
    trace = ops.sum_over_devices(jnp.sum(diagonal), axis_name)
    return squares / ops.nonzero_divisor(jnp.square(trace))

  norms = [jnp.sum(jnp.square(rows.local), 1) for rows in (student, teacher)]
  own, joint = over_rows(
    row_sums,
    student,
    teacher,
    pair=pairs(student_embeddings, where, axis_name),
    chunk_size=chunk_size,
  )
  return normalized_sum(own, norms[0]) - normalized_sum(
    joint, norms[0] * norms[1]
  )
