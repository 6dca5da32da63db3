"""Geodesic flow kernel (GFK)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.transforms._affine_map import AffineMap
from kdjax.transforms._principal_axes import (
  principal_axes,
  principal_components,
)


@ops.validate
def gfk(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_components: int = 20,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> AffineMap:
  r"""Geodesic flow kernel (GFK): integral over subspaces between two domains.

  .. math::
    G = \int_0^1 \Phi(\tau) \Phi(\tau)^\top d\tau, \qquad x \mapsto x\, G^{1/2}

  Phi is the geodesic from the principal subspace of the source to that of the
  target. The inner product of mapped rows x and y is x G y. With principal
  vectors a_i, b_i at angles theta_i,

  .. math::
    G = \sum_i f(\theta_i) (a_i a_i^\top + b_i b_i^\top)
      + g(\theta_i) (a_i b_i^\top + b_i a_i^\top), \quad
    f = \frac{2 \theta - \sin 2 \theta}{4 \theta \sin^2 \theta}, \quad
    g = \frac{\sin \theta - \theta \cos \theta}{2 \theta \sin^2 \theta}

  This form needs no generalized singular values and no orthogonal complement.

  Args:
    source: `[source, dims]`, standardized, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    num_components: the dimension of both subspaces, at most dims. The authors
      choose it by a measure of disagreement, at most dims / 2, a limit that
      this form does not need; transferlearning: 20.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map, the same for both domains, with the symmetric matrix G^(1/2). Rows
    are not centered, as published. It is differentiable in both samples if the
    kept axes differ in variance from the other axes and no angle is 0; the
    derivative at angle 0 is incomplete.

  Raises:
    ValueError: if the widths differ or there are fewer dims than components.

  Examples:
    >>> rows = jnp.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> fitted = gfk(rows, rows, num_components=1)
    >>> mapped = fitted.apply(rows)
    >>> [f"{x:.2f}" for x in jnp.sum(mapped * mapped, 1).tolist()]
    ['4.00', '4.00', '0.00', '0.00']

  References:
    Gong et al., `Geodesic flow kernel for unsupervised domain adaptation
    <https://doi.org/10.1109/CVPR.2012.6247911>`_, 2012.
  """
  k = principal_components(num_components, source, target)
  mean_source, of_source = principal_axes(source, where_source, axis_name, k)
  _, of_target = principal_axes(target, where_target, axis_name, k)

  def product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")

  left, cosines, right = ops.svd(product(of_source.T, of_target))
  a, b = product(of_source, left), product(of_target, right)
  own, cross = _flow(cosines)
  mixed = product(a * cross[None], b.T)
  kernel = product(a * own[None], a.T) + product(b * own[None], b.T)
  matrix = ops.matrix_square_root(kernel + mixed + mixed.T)
  zeros = jnp.zeros_like(mean_source)
  return AffineMap(zeros, matrix, zeros, zeros, matrix, zeros)


def _flow(
  cosines: Float[Array, " angles"],
) -> tuple[Float[Array, " angles"], Float[Array, " angles"]]:
  """Returns f and g as functions of the cosine, smooth also at 1."""
  cosines = jnp.clip(cosines, 0.0, 1.0)
  rest = 1 - cosines
  # Near 1, three terms of the series are exact to a few eps; elsewhere the
  # closed form does not cancel.
  near = rest < (3e-4 if cosines.dtype == jnp.float64 else 0.03)
  angle = jnp.arccos(jnp.where(near, 0.5, cosines))
  sine = jnp.sin(angle)
  own = (2 * angle - jnp.sin(2 * angle)) / (4 * angle * sine**2)
  cross = (sine - angle * jnp.cos(angle)) / (2 * angle * sine**2)
  square = 2 * rest + rest**2 / 3 + 4 / 45 * rest**3  # theta^2
  own_near = 1 / 3 + 2 / 45 * square + 2 / 315 * square**2
  cross_near = 1 / 6 + 7 / 180 * square + 31 / 5040 * square**2
  return (
    jnp.where(near, own_near, own),
    jnp.where(near, cross_near, cross),
  )
