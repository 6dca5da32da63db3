"""Maps between principal subspaces: alignment and the geodesic flow."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.adaptation._coral import moments
from kdjax.adaptation._maps import AffineMap
from kdjax.adaptation._svd import svd
from kdjax.adaptation._symmetric import descending_eigh
from kdjax.adaptation._symmetric import square_root
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import validate


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
    source: `[source, dims]`, standardised per domain, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    num_components: the number of axes, at most dims; None is the least of
      dims and the numbers of rows. With all dims the map does nothing but
      turn and centre. The authors choose it by a bound on the stability of
      the axes, 10 to 80.
    where_source: which source rows count.
    where_target: which target rows count.
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
  k = _components(num_components, source, target)
  mean_source, of_source = _axes(source, where_source, axis_name, k)
  mean_target, of_target = _axes(target, where_target, axis_name, k)
  turn = jnp.matmul(of_source.T, of_target, precision="highest")
  matrix = jnp.matmul(of_source, turn, precision="highest")
  nothing = jnp.zeros(k, matrix.dtype)
  return AffineMap(
    mean_source, matrix, nothing, mean_target, of_target, nothing
  )


@validate
def gfk(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_components: int = 20,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> AffineMap:
  r"""Geodesic flow kernel (GFK): all subspaces between two, integrated.

  .. math::
    G = \int_0^1 \Phi(\tau) \Phi(\tau)^\top d\tau, \qquad x \mapsto x\, G^{1/2}

  Phi is the geodesic from the source's principal subspace to the target's,
  so that inner products (and distances) of mapped rows are x G y. With
  principal vectors a_i, b_i at angles theta_i,

  .. math::
    G = \sum_i f(\theta_i) (a_i a_i^\top + b_i b_i^\top)
      + g(\theta_i) (a_i b_i^\top + b_i a_i^\top), \quad
    f = \frac{2 \theta - \sin 2 \theta}{4 \theta \sin^2 \theta}, \quad
    g = \frac{\sin \theta - \theta \cos \theta}{2 \theta \sin^2 \theta}

  which needs no generalised singular values and no orthogonal complement.

  Args:
    source: `[source, dims]`, standardised, as the authors do.
    target: `[target, dims]`; the number of rows may differ.
    num_components: the dimension of both subspaces, at most dims. The authors
      choose it by a measure of disagreement, at most dims / 2 (no need here);
      transferlearning: 20.
    where_source: which source rows count.
    where_target: which target rows count.
    axis_name: the mapped axis that holds the rest of both samples.

  Returns:
    The map, the same for both domains; its symmetric matrix M has M M = G.
    Rows are not centred, as published. Differentiable in both samples while
    the kept axes differ in variance from the dropped ones and no angle is
    0, where the limit of the derivative is left out.

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
  k = _components(num_components, source, target)
  mean_source, of_source = _axes(source, where_source, axis_name, k)
  _, of_target = _axes(target, where_target, axis_name, k)

  def product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")

  left, cosines, right = svd(product(of_source.T, of_target))
  a, b = product(of_source, left), product(of_target, right)
  own, cross = _flow(cosines)
  mixed = product(a * cross[None], b.T)
  kernel = product(a * own[None], a.T) + product(b * own[None], b.T)
  matrix = square_root(kernel + mixed + mixed.T)
  nothing = jnp.zeros_like(mean_source)
  return AffineMap(nothing, matrix, nothing, nothing, matrix, nothing)


def _flow(
  cosines: Float[Array, " angles"],
) -> tuple[Float[Array, " angles"], Float[Array, " angles"]]:
  """Returns f and g, which are smooth in the cosine, at 1 too."""
  cosines = jnp.clip(cosines, 0.0, 1.0)
  rest = 1 - cosines
  # Below, three terms of the series are exact to a few eps; above, the
  # differences of the closed form keep their digits.
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


def _components(
  num_components: int | None, source: Array, target: Array
) -> int:
  dims = source.shape[1]
  if num_components is None:
    return min(dims, source.shape[0], target.shape[0])
  check_integer("num_components", num_components, 1)
  if num_components > dims:
    raise ValueError(
      f"num_components is {num_components}; expected at most the features' "
      f"{dims}."
    )
  return num_components


def _axes(
  rows: Float[Array, "rows dims"],
  where: Bool[Array, " rows"] | None,
  axis_name: str | None,
  count: int,
) -> tuple[Float[Array, " dims"], Float[Array, "dims count"]]:
  """Returns the mean and the leading principal axes."""
  _, mean, covariance = moments(rows, where, axis_name)
  return mean, descending_eigh(covariance)[1][:, :count]
