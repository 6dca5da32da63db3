"""Maximum-likelihood weights of a mixture, by an interior-point method."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from kdjax.ops.arrays._nan import any_nan

_MAX_STEPS = 100


@jax.default_matmul_precision("highest")
def maximum_likelihood_mixture(
  logs: Float[Array, "target centers"], mask: Float[Array, " target"]
) -> Float[Array, " centers"]:
  """Maximizes mean log(exp(logs) x) over x >= 0 with sum(x) = 1.

  The multiplier of the sum is 1, so it is equivalent to minimize
  sum(x) - mean log(exp(logs) x) over x >= 0, here by a primal-dual
  interior-point method.

  Args:
    logs: the log-densities of the components at each point,
      `[target, centers]`.
    mask: 1 for the points to use, else 0, `[target]`.

  Returns:
    The weights x of the components, `[centers]`.
  """
  dtype = logs.dtype
  tolerance = 1e-9 if dtype == jnp.float64 else 1e-5
  size = logs.shape[1]
  # Scaling a row adds a constant to the objective and keeps the solution.
  top = jnp.max(logs, 1, keepdims=True)
  features = jnp.exp(logs - jnp.where(jnp.isfinite(top), top, 0.0))
  weights = mask / jnp.maximum(jnp.sum(mask), 1)
  used = weights > 0

  def model(x: Array) -> Array:
    """Returns the mixture density at each used row, 1 at masked rows."""
    return jnp.where(used, features @ x, 1.0)

  def error_of(x: Array, z: Array) -> tuple[Array, Array]:
    gradient = 1 - (weights / model(x)) @ features - z
    gap = x @ z
    return gradient, jnp.maximum(gap, jnp.max(jnp.abs(gradient)))

  def longest(now: Array, change: Array) -> Array:
    falls = change < 0
    ratios = jnp.where(falls, -now / jnp.where(falls, change, -1.0), jnp.inf)
    return jnp.minimum(jnp.min(ratios), 1.0)

  def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
    x, z, best, error, steps = carry
    gradient, _ = error_of(x, z)
    scaled = features * (jnp.sqrt(weights) / model(x))[:, None]
    matrix = scaled.T @ scaled
    floor = 4 * jnp.finfo(dtype).eps * jnp.max(jnp.diagonal(matrix))
    factor = cho_factor(matrix + jnp.diag(z / x + floor))

    def direction(goal: Array) -> tuple[Array, Array]:
      push = goal / x - z
      dx = cho_solve(factor, push - gradient)
      return dx, push - z / x * dx

    mean = x @ z / size
    dx, dz = direction(jnp.zeros_like(x))
    length = jnp.minimum(longest(x, dx), longest(z, dz))
    ahead = (x + length * dx) @ (z + length * dz) / size
    dx, dz = direction(mean * (ahead / mean) ** 3 - dx * dz)
    length = 0.995 * jnp.minimum(longest(x, dx), longest(z, dz))
    x, z = x + length * dx, z + length * dz
    after = error_of(x, z)[1]
    better = after < error
    best = jnp.where(better, x, best)
    return x, z, best, jnp.where(better, after, error), steps + 1

  def keep_going(carry: tuple[Array, ...]) -> Array:
    x, _, _, error, steps = carry
    sound = jnp.all(jnp.isfinite(x))
    return (error > tolerance) & (steps < _MAX_STEPS) & sound

  start = 0 * weights[0] + jnp.full(size, 1 / size, dtype)
  state = (
    start,
    jnp.ones_like(start) + 0 * start,
    start,
    error_of(start, jnp.ones_like(start))[1],
    jnp.zeros((), jnp.int32),
  )
  best = jax.lax.while_loop(keep_going, step, state)[2]
  return jnp.where(any_nan(logs), jnp.nan, best)
