"""Transfer component analysis (TCA)."""

from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.transforms._component_map import ComponentMap, make_problem


@ops.validate
def tca(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_components: int | None = None,
  ridge: ArrayLike = 1.0,
  kernel: str = "primal",
  gamma: ArrayLike | None = None,
  normalize: bool = False,
  scaling: str = "paper",
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> ComponentMap:
  r"""Transfer component analysis (TCA): components shared by both domains.

  .. math::
    \max_A \operatorname{tr}\bigl((A^\top (K M K + \mu I) A)^{-1}
      A^\top K H K A\bigr), \qquad M = e e^\top, \quad
    e_i = 1 / n_s \text{ or } -1 / n_t

  The columns of A are the leading eigenvectors of (K M K + mu I)^{-1} K H K.
  They have large variance and a small difference between the domain means. A
  Cholesky factor of the first matrix gives a symmetric eigenproblem. K is the
  kernel matrix of all rows, H the centering matrix.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    num_components: the number of components, at most the number of features
      (dims, or all rows for a kernel). None is that number, at most 30.
      transferlearning: 30.
    ridge: mu > 0. transferlearning: 1; skada and adapt: 10.
    kernel: with "primal" K is the transposed features (transferlearning's
      default), A is `[dims, components]`, and no `[n, n]` matrix is needed.
      "linear" and "rbf", exp(-gamma d^2), have `[n, n]` kernel matrices, and
      the ridge penalizes the coefficients of the kernel.
    gamma: the rate of "rbf"; None is 1 / dims, as in skada and adapt.
      transferlearning: 1.
    normalize: whether rows are scaled to length 1 before and after the map and
      M is divided by its Frobenius norm, as in transferlearning, not in the
      paper.
    scaling: "paper" gives each component a total variance of 1 (A' K H K A =
      I); "unit" gives each column of A length 1, as transferlearning does.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples; rows are
      gathered.

  Returns:
    The map; the largest entry of each column is positive. It is differentiable
    in both samples if the eigenvalues of the components differ.

  Raises:
    ValueError: if widths differ, an option is unknown, a static number is
      not above 0 or there are too many components.

  Differs from published code: skada and adapt pass the asymmetric matrix
  (I + mu K M K)^{-1} K H K, with mu = 1 / ridge, to a symmetric eigensolver and
  do not get its eigenvectors. transferlearning sorts complex eigenvalues, which
  gives the same order for real ones.

  Examples:
    >>> source = jnp.array([[0.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    >>> target = source + jnp.array([[9.0, 0.0]])
    >>> fitted = tca(source, target, num_components=1, ridge=1e-3)
    >>> [f"{abs(x):.2f}" for x in fitted.coefficients[:, 0].tolist()]
    ['0.00', '0.25']

  References:
    Pan et al., `Domain adaptation via transfer component analysis
    <https://doi.org/10.1109/TNN.2010.2091281>`_, 2011.
  """
  pair = ops.as_sample_pair(
    source, target, where_source, where_target, axis_name
  )
  problem = make_problem(
    pair, kernel, gamma, normalize, scaling, num_components
  )
  coefficients = problem.solve(problem.contrast()[:, None], ridge)
  return problem.as_map(coefficients, None, axis_name)
