"""Correlation alignment (CORAL) as a closed-form map."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.transforms._affine_map import AffineMap, add_ridge, onto_target


@ops.validate
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
  r"""Correlation alignment (CORAL): gives the source the target covariance.

  .. math::
    s \mapsto s\, (C_S + \lambda I)^{-1/2} (C_T + \lambda I)^{1/2}

  with covariances over n - 1. The target is not changed.

  Args:
    source: `[source, dims]`, standardized, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    ridge: lambda > 0. The authors and transferlearning: 1; adapt: 1e-5, an
      almost full whitening.
    center: whether the source also gets the target mean. skada's map does this
      and subtracts the target mean from both domains.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map. It is differentiable in both samples, also at equal eigenvalues.

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
  _, mean_source, of_source = ops.mean_and_covariance(
    source, where_source, axis_name
  )
  _, mean_target, of_target = ops.mean_and_covariance(
    target, where_target, axis_name
  )
  of_source, of_target = add_ridge(of_source, of_target, ridge)
  matrix = jnp.matmul(
    ops.positive_definite_inverse(ops.matrix_square_root(of_source)),
    ops.matrix_square_root(of_target),
    precision="highest",
  )
  if center:
    return onto_target(mean_source, matrix, mean_target)
  zeros = jnp.zeros_like(mean_target)
  return onto_target(zeros, matrix, zeros)
