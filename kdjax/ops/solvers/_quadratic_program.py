"""A solver for convex quadratic programs with box and sum constraints."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from kdjax.ops.arrays._nan import any_nan

_MAX_STEPS = 100
_MAX_IDLE = 10


class _Iterate(NamedTuple):
  """Slacks and multipliers of x >= 0, x <= upper, and both ends of the sum."""

  slacks: tuple[Array, Array, Array, Array]
  multipliers: tuple[Array, Array, Array, Array]


_Carry = tuple[_Iterate, Array, Array, Array, Array]


@jax.default_matmul_precision("highest")
def solve_quadratic_program(
  quadratic: Float[Array, "n n"],
  linear: Float[Array, " n"],
  normal: Float[Array, " n"],
  *,
  upper: Float[Array, ""],
  low: Float[Array, ""],
  high: Float[Array, ""],
  start: Float[Array, ""],
) -> Float[Array, " n"]:
  """Minimizes x'Qx / 2 - b'x over 0 <= x <= upper, low <= a'x <= high.

  The solver is Mehrotra's predictor-corrector interior-point method. Each step
  computes one Cholesky factor of Q plus a diagonal matrix; the number of steps
  hardly depends on the condition of Q, unlike that of projected gradients. It
  stops when the duality gap relative to the objective, and the largest entry of
  the gradient's residual relative to b, are below 1e-9 in float64 and 1e-5 in
  float32.

  Args:
    quadratic: Q, positive semidefinite.
    linear: b.
    normal: a, at least 0.
    upper: the upper bound of all entries of x.
    low: the lower bound of a'x.
    high: the upper bound of a'x.
    start: the initial value of all entries of x. It must satisfy all
      constraints strictly.

  Returns:
    The minimizer x.
  """
  dtype = linear.dtype
  eps = jnp.finfo(dtype).eps
  tolerance = 1e-9 if dtype == jnp.float64 else 1e-5
  size = linear.size
  # Makes the Cholesky factor finite in spite of rounding; the solution stays.
  floor = 4 * eps * (jnp.max(jnp.diagonal(quadratic), initial=0.0) + 1)
  constraints = 2 * size + 2

  x = 0 * linear + start
  slacks = (x, upper - x, normal @ x - low, high - normal @ x)
  pull = jnp.max(jnp.abs(quadratic @ x - linear), initial=0.0)
  center = (pull + eps) * jnp.minimum(start, 1.0)
  iterate = _Iterate(slacks, jax.tree.map(lambda t: center / t, slacks))

  def residual(iterate: _Iterate) -> Array:
    x, (lower, above, least, most) = iterate.slacks[0], iterate.multipliers
    return quadratic @ x - linear - lower + above + (most - least) * normal

  def gap(iterate: _Iterate) -> Array:
    products = jax.tree.map(jnp.vdot, iterate.slacks, iterate.multipliers)
    return jax.tree.reduce(jnp.add, products)

  def unsolved(iterate: _Iterate) -> Array:
    x = iterate.slacks[0]
    objective = x @ (quadratic @ x) / 2 - linear @ x
    error = jnp.max(jnp.abs(residual(iterate)), initial=0.0)
    return jnp.maximum(
      gap(iterate) / (jnp.abs(objective) + eps),
      error / (jnp.max(jnp.abs(linear), initial=0.0) + eps),
    )

  def step(carry: _Carry) -> _Carry:
    iterate, best, error, steps, idle = carry
    slacks, multipliers = iterate
    rates = jax.tree.map(jnp.divide, multipliers, slacks)
    matrix = quadratic + jnp.diag(rates[0] + rates[1] + floor)
    matrix += (rates[2] + rates[3]) * normal[:, None] * normal[None]
    factor = cho_factor(matrix)
    gradient = residual(iterate)

    def direction(goals: tuple[Array, ...]) -> _Iterate:
      """Returns the step to products `goals` of slacks and multipliers."""
      pushes = jax.tree.map(
        lambda goal, slack, multiplier: goal / slack - multiplier,
        goals,
        slacks,
        multipliers,
      )
      dx = cho_solve(
        factor,
        pushes[0] - pushes[1] + (pushes[2] - pushes[3]) * normal - gradient,
      )
      along = normal @ dx
      moves = (dx, -dx, along, -along)
      turns = jax.tree.map(
        lambda push, rate, move: push - rate * move, pushes, rates, moves
      )
      return _Iterate(moves, turns)

    def longest(change: _Iterate) -> Array:
      """Returns the largest step, at most 1, that keeps all values >= 0."""
      ratios = jax.tree.map(
        lambda now, d: jnp.min(
          jnp.where(d < 0, -now / jnp.where(d < 0, d, -1.0), jnp.inf),
          initial=jnp.inf,
        ),
        iterate,
        change,
      )
      return jnp.minimum(jax.tree.reduce(jnp.minimum, ratios), 1.0)

    mean = gap(iterate) / constraints
    affine = direction(jax.tree.map(jnp.zeros_like, slacks))
    length = longest(affine)
    ahead = gap(jax.tree.map(lambda a, d: a + length * d, iterate, affine))
    centering = mean * (ahead / (constraints * mean)) ** 3
    change = direction(jax.tree.map(lambda s, m: centering - s * m, *affine))
    length = 0.995 * longest(change)
    iterate = jax.tree.map(lambda a, d: a + length * d, iterate, change)
    after = unsolved(iterate)
    # Return the best iterate: the error may rise in early steps, and rounding
    # may make late iterates worse or NaN.
    better = after < error
    best = jnp.where(better, iterate.slacks[0], best)
    idle = jnp.where(better, 0, idle + 1)
    return iterate, best, jnp.where(better, after, error), steps + 1, idle

  def keep_going(carry: _Carry) -> Array:
    _, _, error, steps, idle = carry
    return (error > tolerance) & (steps < _MAX_STEPS) & (idle < _MAX_IDLE)

  zero = jnp.zeros((), jnp.int32)
  # Has the type that the loop computes, also over the devices of a mesh.
  idle = zero + jnp.isnan(pull)
  state = (iterate, x, unsolved(iterate), zero, idle)
  best = jax.lax.while_loop(keep_going, step, state)[1]
  return jnp.where(any_nan(quadratic, linear, normal), jnp.nan, best)
