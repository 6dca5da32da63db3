"""Linear optimal transport."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.transforms._affine_map import AffineMap, add_ridge, onto_target


@ops.validate
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

  It is the affine map with the least mean squared displacement among all affine
  maps that give the source the mean and covariance of the target. A is
  symmetric positive definite; CORAL's matrix is not.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    ridge: added to the diagonal of both covariances (over n). POT: 1e-6, about
      ten times the rounding error of float32 for features of variance 1; skada:
      1e-8.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map of the source, differentiable in both samples. The target is not
    changed.

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
  n_source, mean_source, of_source = ops.mean_and_covariance(
    source, where_source, axis_name
  )
  n_target, mean_target, of_target = ops.mean_and_covariance(
    target, where_target, axis_name
  )
  of_source *= jnp.maximum(n_source - 1, 0) / jnp.maximum(n_source, 1)
  of_target *= jnp.maximum(n_target - 1, 0) / jnp.maximum(n_target, 1)
  of_source, of_target = add_ridge(of_source, of_target, ridge)
  root = ops.matrix_square_root(of_source)
  unroot = ops.positive_definite_inverse(root)
  with jax.default_matmul_precision("highest"):
    middle = ops.matrix_square_root(root @ of_target @ root)
    matrix = unroot @ middle @ unroot
  return onto_target(mean_source, matrix, mean_target)
