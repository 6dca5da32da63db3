"""Affine maps of both domains into a common space."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops

DOMAINS = ("source", "target")


@ops.exportable
class AffineMap(NamedTuple):
  """A fitted map (rows - center) matrix + shift of each domain; a pytree.

  `fitted.apply(rows)` maps source rows, `fitted.apply(rows, domain="target")`
  maps target rows, including rows outside the fitted sample.

  Attributes:
    source_center: `[dims]`.
    source_matrix: `[dims, mapped]`.
    source_shift: `[mapped]`.
    target_center: `[dims]`.
    target_matrix: `[dims, mapped]`.
    target_shift: `[mapped]`.
  """

  source_center: Float[Array, " dims"]
  source_matrix: Float[Array, "dims mapped"]
  source_shift: Float[Array, " mapped"]
  target_center: Float[Array, " dims"]
  target_matrix: Float[Array, "dims mapped"]
  target_shift: Float[Array, " mapped"]

  @ops.validate
  def apply(
    self, rows: Float[Array, "rows dims"], *, domain: str = "source"
  ) -> Float[Array, "rows mapped"]:
    """Maps rows of a domain, "source" or "target", to the common space."""
    ops.check_choice("domain", domain, DOMAINS)
    center, matrix, shift = self[:3] if domain == "source" else self[3:]
    rows = rows.astype(jnp.promote_types(ops.compute_dtype(rows), center.dtype))
    if rows.ndim != 2 or rows.shape[1] != matrix.shape[0]:
      raise ValueError(
        f"apply: rows has shape {rows.shape}; expected [rows, dims] = (rows, "
        f"{matrix.shape[0]}), the dims of the fit."
      )
    mapped = jnp.matmul(rows - center[None], matrix, precision="highest")
    return mapped + shift[None]


def add_ridge(
  of_source: Float[Array, "dims dims"],
  of_target: Float[Array, "dims dims"],
  ridge: ArrayLike,
) -> tuple[Float[Array, "dims dims"], Float[Array, "dims dims"]]:
  """Returns both covariances plus the ridge, in one dtype."""
  ops.check_positive("ridge", ridge)
  dtype = jnp.promote_types(of_source.dtype, of_target.dtype)
  identity = jnp.eye(of_source.shape[0], dtype=dtype)
  ridges = ops.as_number("ridge", ridge, dtype) * identity

  def ridged(covariance: Array) -> Array:
    # A ridge below the rounding error would leave the matrix singular.
    covariance = covariance.astype(dtype)
    size = ops.safe_norm(covariance, axis=None) * jnp.finfo(dtype).eps
    floor = 2 * covariance.shape[0] * size
    return covariance + jnp.maximum(ridges, floor * identity)

  return ridged(of_source), ridged(of_target)


def onto_target(
  center: Float[Array, " dims"],
  matrix: Float[Array, "dims dims"],
  shift: Float[Array, " dims"],
) -> AffineMap:
  """Returns a map of the source only; the identity for the target."""
  zeros = jnp.zeros_like(shift, matrix.dtype)
  identity = jnp.eye(shift.size, dtype=matrix.dtype)
  center, shift = center.astype(matrix.dtype), shift.astype(matrix.dtype)
  return AffineMap(center, matrix, shift, zeros, identity, zeros)
