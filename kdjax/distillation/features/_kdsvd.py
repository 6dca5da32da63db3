"""Distillation by singular value decomposition (KD-SVD)."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.distillation.features._stage_pairs import stage_pairs
from kdjax.ops import check_integer
from kdjax.ops import normalize_as_torch

_contract = functools.partial(jnp.einsum, precision="highest")


def kdsvd_loss(
  student_features: Sequence[ArrayLike],
  teacher_features: Sequence[ArrayLike],
  *,
  k: int = 1,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Knowledge distillation by singular value decomposition (KD-SVD).

  Each map, a matrix of positions by channels, is described by its k first
  right singular vectors; a Gaussian of their differences between consecutive
  stages is compared:

  .. math::
    R_{ijm} = \exp\bigl(-(v^{(l)}_{im} - v^{(l-1)}_{jm})^2 / 8\bigr), \qquad
    \ell = \sum_l \sum_{ijm} (R^S_{ijm} - R^T_{ijm})^2

  v_m is the m-th vector times the teacher's m-th singular value, the k
  values being of norm 1 together. The student's is that of its k + 3 first
  vectors whose cosine with the teacher's is largest in size, with its sign.

  Args:
    student_features: maps `[batch, height, width, channels]` of two or more
      consecutive stages.
    teacher_features: the teacher's, as many. Batch and channels equal the
      student's, height and width need not. They receive no gradient.
    k: how many singular vectors; not above the number of channels or
      positions of any map.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch
    (RepDistiller, mdistiller).

  Raises:
    ValueError: if there are fewer than two maps or not as many on both sides,
      batch or channels differ, or k is out of range.
    TypeError: if the features are not floating-point or k is no integer.

  Vectors of equal singular values have no derivative in their common plane,
  and only there do they get none: the gradient is finite for any map.

  The sign of a teacher's vector is what the decomposition happens to return,
  here as in the published codes, and the value depends on it: LAPACK in
  float64, padded to go the way of PyTorch's MKL, gives the recorded values;
  other precisions and devices may not.

  Published codes disagree: RepDistiller decomposes positions by channels, the
  paper's matrix and the default; mdistiller's port takes channels and rows
  together, by columns, and gives another value.

  Examples:
    >>> rng = jax.random.key(0)
    >>> maps = [jax.random.normal(rng, (1, 4, 4, 2))] * 2
    >>> kdsvd_loss(maps, maps)
    Array([0.], dtype=float32)

  References:
    Lee, Kim and Song, `Self-supervised knowledge distillation using singular
    value decomposition <https://arxiv.org/abs/1807.06819>`_, 2018.
  """
  check_integer("k", k, 1)
  stages = stage_pairs(
    "kdsvd_loss", student_features, teacher_features, stop_teacher_gradient
  )
  if len(stages) < 2:
    raise ValueError(
      f"kdsvd_loss: student_features holds {len(stages)} maps; expected 2 or "
      "more consecutive stages."
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
  """Both sides' `[batch, channels, k]` vectors of one stage."""
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
  scale = normalize_as_torch(values[:, :k])[:, None]
  return student_vectors * scale, teacher_vectors * scale


def _without_scale(maps: Array) -> Float[Array, "batch positions channels"]:
  """The vectors do not depend on it; their derivative would underflow."""
  rows = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), (1, 2), keepdims=True))
  return rows / jnp.where(largest > 0, largest, 1.0)


@jax.custom_jvp
def _singular(
  x: Float[Array, "batch rows columns"],
) -> tuple[Float[Array, "batch rank"], Float[Array, "batch columns rank"]]:
  """Singular values, descending, and right singular vectors."""
  rows, columns = x.shape[1:]
  # Rows of zeros change nothing but the vectors' signs, see `_padded_rows`.
  x = jnp.pad(x, ((0, 0), (0, _padded_rows(rows, columns) - rows), (0, 0)))
  _, values, vectors = jnp.linalg.svd(x, full_matrices=False)
  rank = min(rows, columns)
  return values[:, :rank], jnp.swapaxes(vectors, 1, 2)[:, :, :rank]


def _padded_rows(rows: int, columns: int) -> int:
  """With how many rows LAPACK returns the signs that PyTorch's MKL returns.

  Either bidiagonalizes the matrix itself or, if it is long, its triangular
  factor, with vectors of other signs. LAPACK calls 11/6 times as long as wide
  long; the MKL 3/2 if there are more rows, 20 if there are more columns.
  """
  if rows >= columns:
    return max(rows, columns * 11 // 6) if rows >= columns * 3 // 2 else rows
  if rows == 1 or columns >= 20 * rows:
    return rows
  direct = (n for n in range(rows, columns) if columns < n * 11 // 6)
  return next(direct, rows)


@_singular.defjvp
def _singular_jvp(primals, tangents):
  """Gaps and values within rounding of 0 get no derivative, not infinity."""
  (x,), (x_dot,) = primals, tangents
  values, vectors = _singular(x)
  tiny = jnp.finfo(x.dtype).eps * max(x.shape[1:]) * values[:, :1]

  def inverse(x, scale):
    """1 / (x scale), or 0 where x is rounding; all scales are positive."""
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
  turn = (inner + jnp.swapaxes(inner, 1, 2)) * inverse(gaps, sums)
  vectors_dot = _contract("bci,bij->bcj", vectors, turn)
  if x.shape[2] > x.shape[1]:
    # What leaves the span of the vectors: (1 - V V^T) x_dot^T U / s.
    leaving = _contract("brc,bri->bci", x_dot, scaled_left)
    overlap = _contract("bcj,bci->bji", vectors, leaving)
    leaving -= _contract("bcj,bji->bci", vectors, overlap)
    vectors_dot += leaving * inverse(values, values)[:, None]
  return (values, vectors), (values_dot, vectors_dot)
