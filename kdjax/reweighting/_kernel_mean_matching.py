"""Kernel mean matching (KMM)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def kmm_weights(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  kernel: str = "rbf",
  gamma: ArrayLike | None = None,
  upper_bound: ArrayLike = 1000.0,
  epsilon: ArrayLike | None = None,
  normalize: bool = True,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Kernel mean matching (KMM): weights of source rows.

  .. math::
    \min_\beta \tfrac12 \beta^\top K \beta - \kappa^\top \beta, \quad
    \kappa_i = \frac{n_s}{n_t} \sum_j k(s_i, t_j), \quad
    0 \le \beta_i \le B, \quad
    \Bigl|\sum_i \beta_i - n_s\Bigr| \le n_s \epsilon

  The weighted source and the target then have equal means in the feature space
  of the kernel. An interior-point method solves the program to a duality gap of
  1e-9 of the objective in float64 and 1e-5 in float32. It takes 10 to 25 steps
  with one Cholesky factorization of `[source, source]` each. With a wide kernel
  the means are matched more exactly than the weights are determined.

  Args:
    source: `[source, dims]`, standardized if the units of the features differ.
    target: `[target, dims]`; the number of rows may differ.
    kernel: "rbf", exp(-gamma d^2), or "linear".
    gamma: the rate of "rbf"; None is 1 / dims.
    upper_bound: B > 1 - epsilon. The paper, skada and adapt: 1000;
      transferlearning: 1, with which no weight is above 1.
    epsilon: None is (sqrt(n_s) - 1) / sqrt(n_s), as in the paper, skada and
      adapt; transferlearning: B / sqrt(n_s).
    normalize: whether weights are scaled to mean 1. False returns the solution.
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    chunk_size: the number of rows of the `[source, target]` kernel matrix that
      are in memory at a time; a static integer. None keeps the whole matrix.
      The `[source, source]` matrix is always whole.
    axis_name: the mapped axis that holds the rest of both samples. Rows are
      gathered; each device returns the weights of its own rows.

  Returns:
    `[source]`, not negative, without gradient. All weights are 1 if all kernels
    between source and target rows are 0, or all target rows are masked.

  Raises:
    ValueError: if the widths differ, a static hyper-parameter is not above 0,
      or no weights satisfy the constraints.

  Differs from published code: adapt splits more than 1000 rows into random
  parts and solves each part alone; here all rows are in one program, with
  O(source^2) memory. skada's Frank-Wolfe method stops at a much larger duality
  gap.

  Examples:
    >>> source = jnp.array([[0.0], [1.0], [2.0]])
    >>> weights = kmm_weights(source, jnp.array([[1.0], [1.2]]))
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['0.00', '2.71', '0.29']

  References:
    Huang et al., `Correcting sample selection bias by unlabeled data
    <https://papers.nips.cc/paper/2006/hash/a2186aa7c086b46ad4e8bf81e2a3a19b-Abstract.html>`_,
    2006; Gretton et al., Covariate shift by kernel mean matching, 2009.
  """
  ops.check_choice("kernel", kernel, ("rbf", "linear"))
  pair = jax.lax.stop_gradient(
    ops.as_sample_pair(source, target, where_source, where_target, axis_name)
  )
  rate = ops.gaussian_rate(gamma, pair.source)

  def between(a: Array, b: Array) -> Array:
    if kernel == "rbf":
      return ops.gaussian_kernel(a, b, rate)
    # A linear kernel depends on the origin; published codes do not center.
    return jnp.matmul(a, b.T, precision="highest")

  within = between(pair.source, pair.source)
  mask = pair.source_mask
  count = jnp.sum(mask)
  n_target = jnp.sum(pair.target_mask)
  across = kernel_sums(
    between, pair.source, pair.target, pair.target_mask, chunk_size
  )
  weights = matched_weights(
    within * mask[:, None] * mask[None],
    across * mask * count / jnp.maximum(n_target, 1),
    mask,
    count,
    upper_bound,
    epsilon,
    1 - 1 / jnp.sqrt(jnp.maximum(count, 1)),
  )
  weights = jnp.where(jnp.any(across * mask != 0), weights, 1.0) * mask
  if normalize:
    weights = ops.weights_of_mean_one(weights, mask)
  return ops.local_rows(weights, source.shape[0], axis_name)


def kernel_sums(
  kernel: Callable[[Array, Array], Array],
  rows: Float[Array, "n dims"],
  others: Float[Array, "m dims"],
  weights: Float[Array, " m"] | Float[Array, "m columns"],
  chunk_size: int | None,
) -> Float[Array, " n"] | Float[Array, "n columns"]:
  """Returns kernel(rows, others) @ weights."""

  def sums(rows: Array) -> Array:
    return jnp.matmul(kernel(rows, others), weights, precision="highest")

  return ops.in_chunks(sums, rows, chunk_size)


def matched_weights(
  quadratic: Float[Array, "n n"],
  linear: Float[Array, " n"],
  normal: Float[Array, " n"],
  count: Float[Array, ""],
  upper_bound: ArrayLike,
  epsilon: ArrayLike | None,
  default: Float[Array, ""],
) -> Float[Array, " n"]:
  """Returns weights in [0, B] of mean 1 +- epsilon that match the means."""
  dtype = linear.dtype
  ops.check_positive("upper_bound", upper_bound)
  upper = ops.as_number("upper_bound", upper_bound, dtype)
  if epsilon is None:
    slack = default
  else:
    ops.check_positive("epsilon", epsilon)
    slack = ops.as_number("epsilon", epsilon, dtype)
    known = (int, float)
    if (
      isinstance(epsilon, known)
      and isinstance(upper_bound, known)
      and upper_bound <= 1 - epsilon
    ):
      raise ValueError(
        f"upper_bound is {upper_bound}; expected more than 1 - epsilon = "
        f"{1 - epsilon}: otherwise no weights have a mean near 1."
      )
  # The method needs an interior, and the default epsilon of one row is 0.
  slack = jnp.maximum(slack, 1e3 * jnp.finfo(dtype).eps)
  low, high = 1 - slack, 1 + slack
  start = (jnp.maximum(low, 0.0) + jnp.minimum(high, upper)) / 2
  scale = jnp.maximum(count, 1)
  # The constraint is on the mean, not the sum, to keep entries in float32.
  return ops.solve_quadratic_program(
    quadratic,
    linear,
    jnp.where(count > 0, normal / scale, 1 / normal.size),
    upper=upper,
    low=low,
    high=high,
    start=start,
  )
