"""Distillation by singular value decomposition (KD-SVD)."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation.features._stage_pairs import stage_pairs

_contract = functools.partial(jnp.einsum, precision="highest")


def kdsvd_loss(
  student_features: Sequence[ArrayLike],
  teacher_features: Sequence[ArrayLike],
  *,
  k: int = 1,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Distillation by singular value decomposition (KD-SVD): singular vectors.

  The k first right singular vectors describe each map, a matrix of positions by
  channels. The loss compares a Gaussian function of their differences between
  consecutive stages:

  .. math::
    R_{ijm} = \exp\bigl(-(v^{(l)}_{im} - v^{(l-1)}_{jm})^2 / 8\bigr), \qquad
    \ell = \sum_l \sum_{ijm} (R^S_{ijm} - R^T_{ijm})^2

  v_m is the m-th vector times the teacher's m-th singular value, where the
  vector of the k values has norm 1. The student's v_m is the one of its k + 3
  first vectors with the largest absolute cosine to the teacher's, times the
  sign of that cosine.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: maps `[batch, height, width, channels]` of two or more
      consecutive stages.
    teacher_features: the teacher's maps, as many, with the student's batch and
      channels; height and width may differ. They receive no gradient.
    k: the number of singular vectors; at most the number of channels and of
      positions of every map.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch
    (RepDistiller, mdistiller).

  Raises:
    ValueError: if there are fewer than two maps, the numbers of maps, batch
      sizes or channels differ, or k is out of range.
    TypeError: if the features are not floating-point or k is not an integer.

  Vectors with equal singular values have no derivative within their common
  plane; there the derivative is set to 0. The gradient is finite for every map.

  As in published code, the decomposition chooses the sign of a teacher's
  vector, and the value depends on it. LAPACK in float64, with matrices padded
  so that the signs are those of PyTorch's MKL, gives the recorded values; other
  precisions and devices may not.

  Published codes disagree: the paper, RepDistiller and this code decompose the
  matrix of positions by channels; mdistiller's port decomposes another matrix,
  of channels and rows by columns.

  Examples:
    >>> rng = jax.random.key(0)
    >>> maps = [jax.random.normal(rng, (1, 4, 4, 2))] * 2
    >>> kdsvd_loss(maps, maps)
    Array([0.], dtype=float32)

  References:
    Lee, Kim and Song, `Self-supervised knowledge distillation using singular
    value decomposition <https://arxiv.org/abs/1807.06819>`_, 2018.
  """
  ops.check_integer("k", k, 1)
  stages = stage_pairs(
    "kdsvd_loss", student_features, teacher_features, stop_teacher_gradient
  )
  if len(stages) < 2:
    raise ValueError(
      f"kdsvd_loss: student_features holds {len(stages)} maps; expected the "
      "maps of 2 or more consecutive stages."
    )
  kernels = [_aligned_vectors(*stage, k) for stage in stages]
  loss = jnp.zeros(())
  for below, above in itertools.pairwise(kernels):
    student, teacher = (
      jnp.exp(-jnp.square(a[:, :, None] - b[:, None]) / 8)
      for a, b in zip(above, below, strict=True)
    )
    loss += jnp.sum(jnp.square(student - teacher), (1, 2, 3))
  return loss


def _aligned_vectors(
  student: Array, teacher: Array, k: int
) -> tuple[Array, Array]:
  """Returns both sides' vectors of one stage, `[batch, channels, k]`."""
  student, teacher = (_without_scale(x) for x in (student, teacher))
  most = min(*student.shape[1:], *teacher.shape[1:])
  if k > most:
    raise ValueError(
      f"kdsvd_loss: k is {k}; expected at most {most}, the smallest number of "
      "channels or positions of a stage."
    )
  values, vectors = _singular(teacher)
  teacher_vectors = vectors[:, :, :k]
  _, vectors = _singular(student)
  candidates = vectors[:, :, : k + 3]
  cosines = _contract("bci,bcj->bij", candidates, teacher_vectors)
  best = jnp.argmax(jnp.abs(cosines), 1)
  choice = jax.nn.one_hot(best, cosines.shape[1], axis=1, dtype=cosines.dtype)
  choice *= jnp.sign(cosines)
  student_vectors = _contract(
    "bci,bij->bcj", candidates, jax.lax.stop_gradient(choice)
  )
  scale = ops.normalize_as_torch(values[:, :k])[:, None]
  return student_vectors * scale, teacher_vectors * scale


def _without_scale(maps: Array) -> Float[Array, "batch positions channels"]:
  """Divides by the largest entry, so that derivatives do not underflow."""
  rows = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), (1, 2), keepdims=True))
  return rows / jnp.where(largest > 0, largest, 1.0)


@jax.custom_jvp
def _singular(
  x: Float[Array, "batch rows columns"],
) -> tuple[Float[Array, "batch rank"], Float[Array, "batch columns rank"]]:
  """Returns singular values, descending, and right singular vectors."""
  rows, columns = x.shape[1:]
  # Rows of zeros change only the signs of the vectors, see `_padded_rows`.
  x = jnp.pad(x, ((0, 0), (0, _padded_rows(rows, columns) - rows), (0, 0)))
  _, values, vectors = jnp.linalg.svd(x, full_matrices=False)
  rank = min(rows, columns)
  return values[:, :rank], jnp.swapaxes(vectors, 1, 2)[:, :, :rank]


def _padded_rows(rows: int, columns: int) -> int:
  """Returns the number of rows for which LAPACK's signs are PyTorch MKL's.

  Both libraries bidiagonalize the matrix or, if it is long, its triangular
  factor, whose vectors have other signs. A matrix is long for LAPACK from a
  ratio of 11/6 of its sides on; for the MKL from 3/2 if there are more rows,
  from 20 if there are more columns.
  """
  if rows >= columns:
    return max(rows, columns * 11 // 6) if rows >= columns * 3 // 2 else rows
  if rows == 1 or columns >= 20 * rows:
    return rows
  direct = (n for n in range(rows, columns) if columns < n * 11 // 6)
  return next(direct, rows)


@_singular.defjvp
def _singular_jvp(primals, tangents):
  """The derivative is 0, not infinite, where gaps or values are rounding."""
  (x,), (x_dot,) = primals, tangents
  values, vectors = _singular(x)
  tiny = jnp.finfo(x.dtype).eps * max(x.shape[1:]) * values[:, :1]

  def inverse(x, scale):
    """Returns 1 / (x scale), or 0 where x is rounding; scales are positive."""
    kept = jnp.abs(x) > jnp.expand_dims(tiny, tuple(range(2, x.ndim)))
    return jnp.where(kept, 1 / jnp.where(kept, x * scale, 1.0), 0.0)

  # With x = U diag(s) V^T: the left vectors times s, and both times x_dot.
  scaled_left = _contract("brc,bci->bri", x, vectors)
  moved = _contract("brc,bci->bri", x_dot, vectors)
  inner = _contract("bri,brj->bij", scaled_left, moved)
  values_dot = jnp.diagonal(inner, axis1=1, axis2=2) * inverse(
    values, jnp.ones_like(values)
  )
  gaps = values[:, None] - values[:, :, None]  # column less row
  sums = values[:, None] + values[:, :, None]
  rotation = (inner + jnp.swapaxes(inner, 1, 2)) * inverse(gaps, sums)
  vectors_dot = _contract("bci,bij->bcj", vectors, rotation)
  if x.shape[2] > x.shape[1]:
    # The derivative outside the span of the vectors: (1 - V V^T) x_dot^T U / s.
    outside = _contract("brc,bri->bci", x_dot, scaled_left)
    overlap = _contract("bcj,bci->bji", vectors, outside)
    outside -= _contract("bcj,bji->bci", vectors, overlap)
    vectors_dot += outside * inverse(values, values)[:, None]
  return (values, vectors), (values_dot, vectors_dot)
