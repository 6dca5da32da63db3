"""Affine maps of one domain onto the other: CORAL and linear transport."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.adaptation._coral import moments
from kdjax.adaptation._symmetric import inverse
from kdjax.adaptation._symmetric import square_root
from kdjax.ops import safe_norm
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate

DOMAINS = ("source", "target")


class AffineMap(NamedTuple):
  """A fitted map of both domains into a common space; a pytree of arrays.

  `fitted.apply(rows)` maps source rows, and
  `fitted.apply(rows, domain="target")` target rows, seen or not.

  Attributes:
    source_center: `[dims]`, taken from source rows first.
    source_matrix: `[dims, mapped]`, by which they are multiplied then.
    source_shift: `[mapped]`, added last.
    target_center: `[dims]`, likewise for target rows.
    target_matrix: `[dims, mapped]`.
    target_shift: `[mapped]`.

  References:
    Sun et al., `Return of frustratingly easy domain adaptation
    <https://arxiv.org/abs/1511.05547>`_, 2016, is the simplest such map.
  """

  source_center: Float[Array, " dims"]
  source_matrix: Float[Array, "dims mapped"]
  source_shift: Float[Array, " mapped"]
  target_center: Float[Array, " dims"]
  target_matrix: Float[Array, "dims mapped"]
  target_shift: Float[Array, " mapped"]

  @validate
  def apply(
    self, rows: Float[Array, "rows dims"], *, domain: str = "source"
  ) -> Float[Array, "rows mapped"]:
    """Maps rows of a domain, "source" or "target", to the common space."""
    check_choice("domain", domain, DOMAINS)
    center, matrix, shift = self[:3] if domain == "source" else self[3:]
    rows = rows.astype(jnp.promote_types(compute_dtype(rows), center.dtype))
    if rows.ndim != 2 or rows.shape[1] != matrix.shape[0]:
      raise ValueError(
        f"apply: rows has shape {rows.shape}; expected [rows, dims] = (rows, "
        f"{matrix.shape[0]}), as fitted."
      )
    mapped = jnp.matmul(rows - center[None], matrix, precision="highest")
    return mapped + shift[None]


@validate
def coral_transform(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  ridge: ArrayLike = 1.0,
  center: bool = False,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> AffineMap:
  r"""Correlation alignment (CORAL): source features of the target's covariance.

  .. math::
    s \mapsto s\, (C_S + \lambda I)^{-1/2} (C_T + \lambda I)^{1/2}

  with covariances over n - 1; the target stays as it is.

  Args:
    source: `[source, dims]`, standardised, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    ridge: lambda > 0. The authors and transferlearning: 1; adapt: 1e-5, an
      almost full whitening.
    center: whether the mean moves to the target's as well. skada's map is
      that, less the target's mean in both domains.
    where_source: which source rows count.
    where_target: which target rows count.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map, differentiable in both samples, equal eigenvalues included.

  Raises:
    ValueError: if the widths differ or a static ridge is not above 0.

  Examples:
    >>> source = jnp.array([[-1.0], [1.0]])
    >>> fitted = coral_transform(source, 3.0 * source, ridge=1e-6)
    >>> [f"{x:.2f}" for x in fitted.apply(source)[:, 0].tolist()]
    ['-3.00', '3.00']

  References:
    Sun et al., `Return of frustratingly easy domain adaptation
    <https://arxiv.org/abs/1511.05547>`_, 2016, algorithm 1.
  """
  _, mean_source, of_source = moments(source, where_source, axis_name)
  _, mean_target, of_target = moments(target, where_target, axis_name)
  of_source, of_target = _ridged(of_source, of_target, ridge)
  matrix = jnp.matmul(
    inverse(square_root(of_source)), square_root(of_target), precision="highest"
  )
  if center:
    return _onto_target(mean_source, matrix, mean_target)
  nothing = jnp.zeros_like(mean_target)
  return _onto_target(nothing, matrix, nothing)


@validate
def linear_ot(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  ridge: ArrayLike = 1e-6,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> AffineMap:
  r"""Linear optimal transport: the Monge map between two Gaussians.

  .. math::
    s \mapsto \mu_T + (s - \mu_S) A, \qquad
    A = C_S^{-1/2} \bigl(C_S^{1/2} C_T C_S^{1/2}\bigr)^{1/2} C_S^{-1/2}

  Of all affine maps that give the source the target's mean and covariance, the
  one that moves it least; A is symmetric positive definite, where CORAL's
  matrix turns the features as well.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    ridge: added to the diagonal of both covariances, over n. POT: 1e-6, which
      float32 feels for features of variance 1; skada: 1e-8.
    where_source: which source rows count.
    where_target: which target rows count.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map of the source, differentiable in both samples; the target stays as
    it is.

  Raises:
    ValueError: if the widths differ or a static ridge is not above 0.

  Examples:
    >>> source = jnp.array([[-1.0], [1.0]])
    >>> fitted = linear_ot(source, 3.0 * source + 5.0)
    >>> [f"{x:.2f}" for x in fitted.apply(source)[:, 0].tolist()]
    ['2.00', '8.00']

  References:
    Knott and Smith, `On the optimal mapping of distributions
    <https://doi.org/10.1007/BF00934745>`_, 1984; Flamary et al.,
    `Concentration bounds for linear Monge mapping estimation
    <https://arxiv.org/abs/1905.10155>`_, 2019.
  """
  n_source, mean_source, of_source = moments(source, where_source, axis_name)
  n_target, mean_target, of_target = moments(target, where_target, axis_name)
  of_source *= jnp.maximum(n_source - 1, 0) / jnp.maximum(n_source, 1)
  of_target *= jnp.maximum(n_target - 1, 0) / jnp.maximum(n_target, 1)
  of_source, of_target = _ridged(of_source, of_target, ridge)
  root = square_root(of_source)
  unroot = inverse(root)
  with jax.default_matmul_precision("highest"):
    middle = square_root(root @ of_target @ root)
    matrix = unroot @ middle @ unroot
  return _onto_target(mean_source, matrix, mean_target)


def _ridged(
  of_source: Float[Array, "dims dims"],
  of_target: Float[Array, "dims dims"],
  ridge: ArrayLike,
) -> tuple[Float[Array, "dims dims"], Float[Array, "dims dims"]]:
  """Returns both covariances, in one dtype, with the ridge."""
  check_positive("ridge", ridge)
  dtype = jnp.promote_types(of_source.dtype, of_target.dtype)
  identity = jnp.eye(of_source.shape[0], dtype=dtype)
  ridges = as_number("ridge", ridge, dtype) * identity

  def ridged(covariance: Array) -> Array:
    # Where rounding outweighs the ridge no inverse would exist.
    covariance = covariance.astype(dtype)
    size = safe_norm(covariance, axis=None) * jnp.finfo(dtype).eps
    floor = 2 * len(covariance) * size
    return covariance + jnp.maximum(ridges, floor * identity)

  return ridged(of_source), ridged(of_target)


def _onto_target(
  center: Float[Array, " dims"],
  matrix: Float[Array, "dims dims"],
  shift: Float[Array, " dims"],
) -> AffineMap:
  nothing = jnp.zeros_like(shift, matrix.dtype)
  identity = jnp.eye(shift.size, dtype=matrix.dtype)
  center, shift = center.astype(matrix.dtype), shift.astype(matrix.dtype)
  return AffineMap(center, matrix, shift, nothing, identity, nothing)
