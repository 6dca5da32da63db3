"""Losses on the singular values and vectors of a batch."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.adaptation._svd import nonzero_values
from kdjax.adaptation._svd import svd
from kdjax.ops import safe_norm
from kdjax.ops import softened_softmax
from kdjax.ops._collectives import agreed
from kdjax.ops._distances import absolute
from kdjax.ops._rows import whole_rows
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import validate


@validate
def bsp_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  components: int = 1,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch spectral penalization (BSP): no direction dominates the features.

  .. math::
    \ell = \sum_{i=1}^{k} \sigma_i(F_S)^2 + \sum_{i=1}^{k} \sigma_i(F_T)^2

  with the singular values in descending order. Adversarial alignment favours
  the directions of the largest ones, which transfer but do not discriminate;
  the penalty goes beside :func:`dann_loss` or CDAN.

  Args:
    source: `[source, dims]`, the features F_S, not centred.
    target: `[target, dims]`; the number of rows may differ.
    components: k, how many singular values; a static integer.
    where_source: which source rows count.
    where_target: which target rows count.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar; a domain without row adds 0. It is a sum, not a mean: it grows
    with the batch. Published weight: 1e-4 for digits, 2e-4 otherwise (TLlib),
    for batches of 36 rows, with k = 1.

  Raises:
    ValueError: if the widths differ or `components` is not positive.
    TypeError: if `components` is no integer.

  Examples:
    >>> source = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    >>> print(f"{bsp_loss(source, 2.0 * source):.3f}")
    45.000

  References:
    Chen et al., `Transferability vs. discriminability: batch spectral
    penalization <https://proceedings.mlr.press/v97/chen19i.html>`_, 2019.
  """
  check_integer("components", components, 1)

  def penalty(
    rows: Float[Array, "batch dims"], where: Bool[Array, " batch"] | None
  ) -> Float[Array, ""]:
    rows, _ = whole_rows(rows, where, axis_name)
    return jnp.sum(jnp.square(svd(rows)[1][:components]))

  value = penalty(source, where_source) + penalty(target, where_target)
  return agreed(value, axis_name)


@validate
def bnm_loss(
  target_logits: Float[Array, "batch classes"],
  *,
  scaling: str = "paper",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch nuclear-norm maximization (BNM): sure and diverse predictions.

  .. math::
    \ell_{\text{paper}} = -\frac{\lVert P \rVert_*}{B}, \qquad
    \ell_{\text{mean}} = -\frac{\lVert P \rVert_*}{\min(B, C)}

  with P the `[B, C]` matrix of probabilities and its nuclear norm the sum of
  its singular values: large where the rows are one-hot (discriminability) and
  of many different classes (diversity).

  Args:
    target_logits: `[batch, classes]`.
    scaling: "paper" (also pytorch-adapt and the authors' open-set code) or
      "mean", the mean of the singular values (the authors' adaptation code,
      DeepDA). A weight of one is B / min(B, C) times too small for the other.
    where: which rows count.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar in [-1, 0], or [-sqrt(B / C), 0] for "mean" with more rows than
    classes. Published weight: 1 (DeepDA: 1 times "mean").

  Raises:
    ValueError: if `scaling` is unknown.

  A class or a row that the others already span adds a singular value of 0,
  where the norm has a kink; there the smallest subgradient is taken, so that
  equal rows get a finite gradient.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> print(f"{bnm_loss(sure):.3f} {bnm_loss(sure[:1]):.3f}")
    -1.000 -1.000
    >>> print(f"{bnm_loss(0.0 * sure):.3f}")
    -0.500

  References:
    Cui et al., `Towards discriminability and diversity: batch nuclear-norm
    maximization <https://arxiv.org/abs/2003.12237>`_, 2020.
  """
  check_choice("scaling", scaling, ("paper", "mean"))
  logits, mask = whole_rows(target_logits, where, axis_name)
  probabilities = mask[:, None] * softened_softmax(logits)
  norm = jnp.sum(svd(probabilities)[1])
  count = jnp.sum(mask)
  if scaling == "mean":
    count = jnp.minimum(count, logits.shape[1])
  return agreed(-norm / jnp.maximum(count, 1), axis_name)


@validate
def rsd_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  mismatch_weight: ArrayLike = 0.1,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Representation subspace distance (RSD), for regression.

  .. math::
    U_S^\top U_T = P_S \operatorname{diag}(\cos \theta) P_T^\top, \qquad
    \ell = \sum_i \sin \theta_i
      + \beta \lVert \, |P_S| - |P_T| \, \rVert_F

  U_S and U_T are the left singular vectors of the transposed features: the
  angles between the subspaces that the two batches span, which no scaling of
  the features changes (a regressor is sensitive to their scale), and the
  mismatch of their bases.

  Args:
    source: `[source, dims]`, usually with more dims than rows: as soon as both
      batches span the whole space all angles are 0.
    target: `[target, dims]`; the number of rows may differ.
    mismatch_weight: beta >= 0. May be traced.
    where_source: which source rows count.
    where_target: which target rows count.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no row. Published weight: 0.001
    with beta = 0.1 (TLlib, for dSprites and MPI3D).

  Raises:
    ValueError: if the widths differ.

  Differs from TLlib's code where that gives NaN: a sine below the rounding
  error of its square (1e-3 in float32) is 0 with gradient 0, vectors of equal
  singular values get no gradient in their common plane, and domains of unequal
  rank, which it refuses, have as many angles as the smaller, the missing
  entries of P being 0.

  Examples:
    >>> source = jnp.array([[1.0, 0.0, 0.0]])
    >>> target = jnp.array([[1.0, 1.0, 0.0]])
    >>> print(f"{rsd_loss(source, target):.4f}")
    0.7071

  References:
    Chen et al., `Representation subspace distance for domain adaptation
    regression <https://proceedings.mlr.press/v139/chen21u.html>`_, 2021.
  """
  source, mask_source = whole_rows(source, where_source, axis_name)
  target, mask_target = whole_rows(target, where_target, axis_name)
  dtype = jnp.promote_types(source.dtype, target.dtype)
  size = max(source.shape[0], target.shape[0])

  def basis(rows: Array) -> tuple[Array, Array]:
    """Left singular vectors, 0 beyond the rank, and the rank."""
    rows = jnp.pad(rows.astype(dtype), ((0, size - rows.shape[0]), (0, 0)))
    vectors, values, _ = svd(rows.T)
    used = nonzero_values(rows, values) & (values > 0)
    return jnp.where(used[None], vectors, 0.0), jnp.sum(used)

  (source, rank_source), (target, rank_target) = basis(source), basis(target)
  # Squares of sines near 0 are differences of squares near 1.
  p_source, cosines, p_target = svd(
    jnp.matmul(source.T, target, precision="highest")
  )
  counted = jnp.arange(cosines.size) < jnp.minimum(rank_source, rank_target)
  squares = (1 - cosines) * (1 + cosines)
  # NaN is not small: it must reach the caller.
  small = squares <= 10 * size * jnp.finfo(dtype).eps
  sines = jnp.sqrt(jnp.where(small, 1.0, squares))
  distance = jnp.sum(jnp.where(counted & ~small, sines, 0.0))
  gap = absolute(p_source) - absolute(p_target)
  gap = jnp.where(counted[None], gap, 0.0)
  weight = as_number("mismatch_weight", mismatch_weight, dtype)
  value = distance + weight * safe_norm(gap, axis=None)
  present = (jnp.sum(mask_source) > 0) & (jnp.sum(mask_target) > 0)
  return agreed(jnp.where(present, value, 0.0), axis_name)
