"""The mixture of largest likelihood, solved exactly."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

_MAX_STEPS = 100


@jax.default_matmul_precision("highest")
def maximum_likelihood_mixture(
  logs: Float[Array, "target centers"], mask: Float[Array, " target"]
) -> Float[Array, " centers"]:
  """Maximizes mean log(exp(logs) x) over the x >= 0 that sum to 1.

  With the multiplier of the sum, which is 1, the program is to minimize
  sum(x) - mean log(exp(logs) x) over x >= 0: a primal-dual interior-point
  method on one kind of constraint.

  Args:
    logs: logarithms of the components at each point, `[target, centers]`.
    mask: 1 for points that count, `[target]`.

  Returns:
    The weights x of the components, `[centers]`.
  """
  dtype = logs.dtype
  tolerance = 1e-9 if dtype == jnp.float64 else 1e-5
  size = logs.shape[1]
  # A row's scale changes its logarithm by a constant, and no solution.
  top = jnp.max(logs, 1, keepdims=True)
  features = jnp.exp(logs - jnp.where(jnp.isfinite(top), top, 0.0))
  share = mask / jnp.maximum(jnp.sum(mask), 1)
  used = share > 0

  def model(x: Array) -> Array:
    """The ratio at each row that counts, 1 at the others."""
    return jnp.where(used, features @ x, 1.0)

  def error_of(x: Array, z: Array) -> tuple[Array, Array]:
    gradient = 1 - (share / model(x)) @ features - z
    gap = x @ z
    return gradient, jnp.maximum(gap, jnp.max(jnp.abs(gradient)))

  def longest(now: Array, change: Array) -> Array:
    falls = change < 0
    ratios = jnp.where(falls, -now / jnp.where(falls, change, -1.0), jnp.inf)
    return jnp.minimum(jnp.min(ratios), 1.0)

  def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
    x, z, best, error, steps = carry
    gradient, _ = error_of(x, z)
    scaled = features * (jnp.sqrt(share) / model(x))[:, None]
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

  start = 0 * share[0] + jnp.full(size, 1 / size, dtype)
  state = (
    start,
    jnp.ones_like(start) + 0 * start,
    start,
    error_of(start, jnp.ones_like(start))[1],
    jnp.zeros((), jnp.int32),
  )
  return jax.lax.while_loop(keep_going, step, state)[2]
