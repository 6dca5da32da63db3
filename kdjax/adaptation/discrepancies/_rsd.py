"""Representation subspace distance (RSD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def rsd_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  mismatch_weight: ArrayLike = 0.1,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Representation subspace distance (RSD) for regression.

  .. math::
    U_S^\top U_T = P_S \operatorname{diag}(\cos \theta) P_T^\top, \qquad
    \ell = \sum_i \sin \theta_i
      + \beta \lVert \, |P_S| - |P_T| \, \rVert_F

  U_S and U_T are the left singular vectors of the transposed features. The
  first term sums the sines of the angles between the subspaces that the two
  batches span; it does not depend on the scale of the features, to which a
  regressor is sensitive. The second term is the mismatch of the bases.

  Args:
    source: `[source, dims]`, usually with more dims than rows: if both batches
      span the whole space, all angles are 0.
    target: `[target, dims]`; the number of rows may differ.
    mismatch_weight: beta >= 0. May be traced.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no rows. Published weight: 0.001
    with beta = 0.1 (TLlib, for dSprites and MPI3D).

  Raises:
    ValueError: if the widths differ.

  Differs from TLlib's code where that code returns NaN or an error. A sine
  below the rounding error of its square (1e-3 in float32) is 0 with gradient 0.
  Vectors of equal singular values get no gradient in their common plane. For
  domains of unequal rank, an error in TLlib, the number of angles is the
  smaller rank, and the missing entries of P are 0.

  Examples:
    >>> source = jnp.array([[1.0, 0.0, 0.0]])
    >>> target = jnp.array([[1.0, 1.0, 0.0]])
    >>> print(f"{rsd_loss(source, target):.4f}")
    0.7071

  References:
    Chen et al., `Representation subspace distance for domain adaptation
    regression <https://proceedings.mlr.press/v139/chen21u.html>`_, 2021.
  """
  source, mask_source = ops.gathered_rows(source, where_source, axis_name)
  target, mask_target = ops.gathered_rows(target, where_target, axis_name)
  dtype = jnp.promote_types(source.dtype, target.dtype)
  size = max(source.shape[0], target.shape[0])

  lost = ops.any_nan(source, target)  # The ranks are counted by comparisons.

  def basis(rows: Array) -> tuple[Array, Array]:
    """Returns left singular vectors, 0 beyond the rank, and the rank."""
    rows = jnp.pad(rows.astype(dtype), ((0, size - rows.shape[0]), (0, 0)))
    vectors, values, _ = ops.svd(rows.T)
    used = ops.nonzero_singular_values(rows, values) & (values > 0)
    return jnp.where(used[None], vectors, 0.0), jnp.sum(used)

  (source, rank_source), (target, rank_target) = basis(source), basis(target)
  # (1 - c)(1 + c) keeps more digits than 1 - c^2 for cosines near 1.
  p_source, cosines, p_target = ops.svd(
    jnp.matmul(source.T, target, precision="highest")
  )
  counted = jnp.arange(cosines.size) < jnp.minimum(rank_source, rank_target)
  squares = (1 - cosines) * (1 + cosines)
  # NaN compares False: it is not replaced by 0 and reaches the caller.
  small = squares <= 10 * size * jnp.finfo(dtype).eps
  sines = jnp.sqrt(jnp.where(small, 1.0, squares))
  distance = jnp.sum(jnp.where(counted & ~small, sines, 0.0))
  gap = ops.safe_abs(p_source) - ops.safe_abs(p_target)
  gap = jnp.where(counted[None], gap, 0.0)
  weight = ops.as_number("mismatch_weight", mismatch_weight, dtype)
  value = distance + weight * ops.safe_norm(gap, axis=None)
  value = jnp.where(lost, jnp.nan, value)
  present = (jnp.sum(mask_source) > 0) & (jnp.sum(mask_target) > 0)
  return ops.mean_over_devices(jnp.where(present, value, 0.0), axis_name)
