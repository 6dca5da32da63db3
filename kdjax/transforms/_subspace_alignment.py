"""Subspace alignment."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import validate
from kdjax.transforms._affine_map import AffineMap
from kdjax.transforms._principal_axes import principal_axes
from kdjax.transforms._principal_axes import principal_components


@validate
def subspace_alignment(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_components: int | None = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> AffineMap:
  r"""Subspace alignment (SA): principal axes turned onto the target's.

  .. math::
    s \mapsto (s - \mu_S) P_S P_S^\top P_T, \qquad t \mapsto (t - \mu_T) P_T

  with the leading principal axes P, in columns, of each domain.

  Args:
    source: `[source, dims]`, standardized per domain, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    num_components: the number of axes, at most dims; None is the least of
      dims and the numbers of rows. With all dims the map does nothing but
      turn and center. The authors choose it by a bound on the stability of
      the axes, 10 to 80.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map into `num_components` coordinates, the target's axes, each with
    its largest entry positive. Differentiable in both samples while the last
    axis kept and the first one dropped differ in variance.

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
  turn = jnp.matmul(of_source.T, of_target, precision="highest")
  matrix = jnp.matmul(of_source, turn, precision="highest")
  nothing = jnp.zeros(k, matrix.dtype)
  return AffineMap(
    mean_source, matrix, nothing, mean_target, of_target, nothing
  )
