"""Relations between the examples of a batch: distances, angles, similarities.

What a row means is compared, not where it lies: student and teacher may have
different widths.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.distillation._angles import angle_gaps
from kdjax.distillation._rows import Pairs
from kdjax.distillation._rows import Rows
from kdjax.distillation._rows import batch_rows
from kdjax.distillation._rows import directions
from kdjax.distillation._rows import pair_mean
from kdjax.distillation._rows import pairs
from kdjax.distillation._rows import products
from kdjax.distillation._rows import unit_rows
from kdjax.distillation._teacher import teacher_side
from kdjax.ops import gather_batch
from kdjax.ops import masked_mean
from kdjax.ops import safe_norm
from kdjax.ops._chunks import in_chunks
from kdjax.ops._collectives import agreed
from kdjax.ops._collectives import total
from kdjax.ops._distances import absolute
from kdjax.ops._rows import nonzero
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import validate

_ROWS_AT_ONCE = 16


@validate
def rkd_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  *,
  distance_weight: ArrayLike = 25.0,
  angle_weight: ArrayLike = 50.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Relational knowledge distillation (RKD): equal distances and angles.

  .. math::
    \ell = w_D \operatorname*{mean}_{ij} h\Bigl(
        \frac{d^S_{ij}}{\bar d^S} - \frac{d^T_{ij}}{\bar d^T}\Bigr)
      + w_A \operatorname*{mean}_{ijk} h\bigl(
        \cos \angle^S_{jik} - \cos \angle^T_{jik}\bigr)

  where d is the Euclidean distance, its mean is over pairs of different
  examples, the angle is at example i between j and k, and h is the Huber
  function, x^2 / 2 up to 1 and |x| - 1/2 beyond.

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    distance_weight: the weight of distances. May be traced.
    angle_weight: the weight of angles. May be traced.
    where: `[batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the batch; pairs and
      triplets across devices count.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 1, with the defaults here, on the pooled
    embedding. The means run over all pairs and triplets, the degenerate ones
    (value 0) included, as in all published codes, so the value does not depend
    on the size of the batch.

  Raises:
    ValueError: if the batches differ.
    TypeError: if the embeddings are not floating-point.

  Equal points have distance 1e-6 in the published codes, and no gradient; so
  here. A few `[batch, batch]` matrices are in memory, never all triplets, in
  the backward pass too, and each device sees to the angles at its own examples.
  Angles are computed from distances.

  Examples:
    >>> points = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> print(f"{rkd_loss(points, 7.0 - 3.0 * points):.6f}")
    0.000000

  References:
    Park et al., `Relational knowledge distillation
    <https://arxiv.org/abs/1904.05068>`_, 2019.
  """
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)
  student = batch_rows(student_embeddings, where, axis_name)
  teacher = batch_rows(teacher_embeddings, where, axis_name)
  pair = pairs(student_embeddings, where, axis_name)

  def distances(rows: Rows) -> Float[Array, "batch whole"]:
    return in_chunks(
      functools.partial(_distances, rows.whole), rows.local, _ROWS_AT_ONCE
    )

  apart = pair.counted & ~pair.diagonal
  student_gaps, teacher_gaps = (
    jnp.where(apart, distances(rows), 0.0) for rows in (student, teacher)
  )

  def row_sums(function: Callable[[Array, Array], Any]) -> Any:
    def of_part(part: tuple[Array, Array, Array, Array]) -> Any:
      *gaps, rows, places = part
      own = pair._replace(rows=rows, places=places)
      apart = own.counted & ~own.diagonal
      # Equal points are as far apart as in the published codes.
      gaps = [jnp.where(apart, jnp.maximum(x, 1e-6), 0.0) for x in gaps]
      return jax.tree.map(lambda x: jnp.sum(x, 1), function(*gaps))

    parts = student_gaps, teacher_gaps, pair.rows, pair.places
    return in_chunks(of_part, parts, _ROWS_AT_ONCE)

  count = jnp.sum(pair.columns, dtype=student_gaps.dtype)
  student_mean, teacher_mean = (
    nonzero(masked_mean(x / nonzero(count - 1), where, axis_name=axis_name))
    for x in row_sums(lambda *gaps: gaps)
  )
  distance_sums = row_sums(
    lambda student, teacher: _huber(
      student / student_mean - teacher / teacher_mean
    )
  )
  count = nonzero(count)
  distance_loss = masked_mean(distance_sums / count, where, axis_name=axis_name)
  angles = angle_gaps(
    pair.places,
    gather_batch(student_gaps, axis_name),
    gather_batch(teacher_gaps, axis_name),
  )
  angle_loss = total(angles / count / jnp.square(count), axis_name)
  return (
    as_number("distance_weight", distance_weight, angles.dtype) * distance_loss
    + as_number("angle_weight", angle_weight, angles.dtype) * angle_loss
  )


def _distances(
  whole: Float[Array, "whole dims"], rows: Float[Array, "rows dims"]
) -> Float[Array, "rows whole"]:
  """Returns distances that keep their digits however close the points are."""
  return safe_norm(rows[:, None] - whole[None])


def _huber(x: Array) -> Array:
  size = jnp.abs(x)
  return jnp.where(size < 1, 0.5 * jnp.square(x), size - 0.5)


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
  r"""Probabilistic knowledge transfer (PKT): equal neighbour probabilities.

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
  here, and in float32 by fewer cancelled digits.

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
    return similarity / nonzero(jnp.sum(similarity, 1, keepdims=True))

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


@validate
def cc_loss(
  student_embeddings: Float[Array, "batch student_dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  *,
  gamma: ArrayLike = 0.4,
  order: int = 2,
  form: str = "kernel",
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Correlation congruence (CC): equal kernel matrices of the batch.

  .. math::
    k(x, y) = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!}
      \cos(x, y)^p, \qquad
    \ell_\text{kernel} = \operatorname*{mean}_{ij} (k^S_{ij} - k^T_{ij})^2

  the Gaussian kernel of unit vectors, expanded to order P.

  .. math::
    \ell_\text{adjacent} = \operatorname*{mean}_i \sum_c
      \lvert x^S_i - x^T_i \rvert_c \, \lvert x^S_{i+1} - x^T_{i+1} \rvert_c

  Args:
    student_embeddings: `[batch, student_dims]`.
    teacher_embeddings: `[batch, teacher_dims]`; they receive no gradient.
    gamma: the kernel's rate. May be traced. "adjacent" does not use it.
    order: the last power P of the expansion, 1 or more.
    form: "kernel", the paper's, as in AberHu's Knowledge-Distillation-Zoo; it
      does not depend on the order of the examples. "adjacent", RepDistiller's,
      which its author has from the paper's authors: products of the gaps of
      consecutive examples, of equal widths, not normalised.
    where: `[batch]`, which examples count; those that do are consecutive.
    chunk_size: as in :func:`pkt_loss`. "adjacent" has no pairs.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher, as both
      codes do by way of the teacher's embedding layer,
      :func:`kdjax.objectives.cc`.

  Returns:
    A scalar. Published weight: 0.02, for "adjacent" (RepDistiller). Neither
    form depends on the batch's size.

  Raises:
    ValueError: if the batches differ, or the widths for "adjacent"; if the
      form is unknown or the order not positive.
    TypeError: if the embeddings are not floating-point.

  torchdistill takes the norm of the difference of the kernel matrices, not its
  square, over batch^2: its weight of 0.003 belongs to that scaling.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> cc_loss(rows, 3.0 * rows)
    Array(0., dtype=float32)

  References:
    Peng et al., `Correlation congruence for knowledge distillation
    <https://arxiv.org/abs/1904.01802>`_, 2019.
  """
  check_choice("form", form, ("kernel", "adjacent"))
  check_integer("order", order, 1)
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)
  student = batch_rows(student_embeddings, where, axis_name)
  teacher = batch_rows(teacher_embeddings, where, axis_name)
  pair = pairs(student_embeddings, where, axis_name)
  if form == "adjacent":
    if student.local.shape != teacher.local.shape:
      raise ValueError(
        f"cc_loss: teacher_embeddings has shape {teacher.local.shape}; the "
        f"adjacent form expected {student.local.shape}, as in "
        "student_embeddings."
      )
    gaps = absolute(student.whole - teacher.whole)
    gaps = gaps[jnp.argsort(~pair.columns, stable=True)]
    following = jnp.arange(1, gaps.shape[0]) < jnp.sum(pair.columns)
    value = masked_mean(jnp.sum(gaps[:-1] * gaps[1:], -1), following)
    # Equal on every device already; the mean makes its gradient the batch's.
    return agreed(value, axis_name)

  def kernel(rows: Rows) -> Array:
    cosines = products(rows)
    rate = 2 * as_number("gamma", gamma, cosines.dtype)
    # Power 0 is alike for both; without it, fewer digits cancel.
    powers = sum(
      (rate * cosines) ** p / math.factorial(p) for p in range(1, order + 1)
    )
    return jnp.exp(-rate) * powers

  return pair_mean(
    lambda student, teacher, _: jnp.square(kernel(student) - kernel(teacher)),
    unit_rows(student),
    unit_rows(teacher),
    pair=pair,
    chunk_size=chunk_size,
    axis_name=axis_name,
  )


@validate
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

  with an example's whole feature map as a row of F.

  Args:
    student_features: `[batch, ...]`, feature maps or embeddings.
    teacher_features: `[batch, ...]`; they receive no gradient. All axes but
      the batch may differ from the student's.
    where: `[batch]`, which examples count.
    chunk_size: as in :func:`pkt_loss`.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. Published weight: 3000, on the last stage's map before pooling
    (RepDistiller). Since a row of unit norm has `batch` entries, the value
    shrinks like 1 / batch.

  Raises:
    ValueError: if the batches differ.
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
    del pair  # what does not count is 0 already
    return jnp.square(
      directions(products(student)) - directions(products(teacher))
    )

  return pair_mean(
    gaps,
    batch_rows(student_features, where, axis_name),
    batch_rows(teacher_features, where, axis_name),
    pair=pairs(student_features, where, axis_name),
    chunk_size=chunk_size,
    axis_name=axis_name,
  )
