"""Subspace alignment."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.transforms._affine_map import AffineMap
from kdjax.transforms._principal_axes import (
  principal_axes,
  principal_components,
)


@ops.validate
def subspace_alignment(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_components: int | None = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> AffineMap:
  r"""Subspace alignment (SA): maps source principal axes to target axes.

  .. math::
    s \mapsto (s - \mu_S) P_S P_S^\top P_T, \qquad t \mapsto (t - \mu_T) P_T

  with the leading principal axes of each domain as the columns of P.

  Args:
    source: `[source, dims]`, standardized in each domain, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    num_components: the number of axes, at most dims. None is the least of dims
      and the numbers of rows. With all dims the map only centers and rotates.
      The authors choose 10 to 80 by a bound on the stability of the axes.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map to `num_components` coordinates along the target axes; the largest
    entry of each axis is positive. It is differentiable in both samples if the
    last kept axis and the next axis differ in variance.

  Raises:
    ValueError: if the widths differ or there are fewer dims than components.

  Examples:
    >>> source = jnp.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> fitted = subspace_alignment(source, source, num_components=1)
    >>> [f"{abs(x):.2f}" for x in fitted.apply(source)[:, 0].tolist()]
    ['2.00', '2.00', '0.00', '0.00']

  References:
    Fernando et al., `Unsupervised visual domain adaptation using subspace
    alignment <https://doi.org/10.1109/ICCV.2013.368>`_, 2013.
  """
  k = principal_components(num_components, source, target)
  mean_source, of_source = principal_axes(source, where_source, axis_name, k)
  mean_target, of_target = principal_axes(target, where_target, axis_name, k)
  rotation = jnp.matmul(of_source.T, of_target, precision="highest")
  matrix = jnp.matmul(of_source, rotation, precision="highest")
  zeros = jnp.zeros(k, matrix.dtype)
  return AffineMap(mean_source, matrix, zeros, mean_target, of_target, zeros)
