"""Entropic optimal transport between two weighted samples (Sinkhorn)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops.arrays._distances import (
  pairwise_squared_distances,
  safe_norm,
  safe_sqrt,
)
from kdjax.ops.validation._checks import as_number, check_choice

COSTS = ("squared_euclidean", "euclidean", "cosine")


def transport_costs(
  a: Float[Array, "n dims"], b: Float[Array, "m dims"], cost: str
) -> Float[Array, "n m"]:
  """Returns the costs of transport from a_i to b_j.

  Args:
    a: `[n, dims]`.
    b: `[m, dims]`.
    cost: "squared_euclidean", "euclidean" or "cosine".

  Returns:
    `[n, m]`.
  """
  check_choice("cost", cost, COSTS)
  if cost == "cosine":
    units = []
    for rows in (a, b):
      norm = safe_norm(rows, keepdims=True)
      units.append(rows / jnp.where(norm == 0, 1.0, norm))
    return 1 - jnp.matmul(units[0], units[1].T, precision="highest")
  squares = pairwise_squared_distances(a, b)
  if cost == "squared_euclidean":
    return squares
  return safe_sqrt(squares)


def log_uniform_weights(mask: Float[Array, " n"]) -> Float[Array, " n"]:
  """Returns the logarithms of equal weights of sum 1.

  Args:
    mask: above 0 for the rows to use, `[n]`. If no entry is, all rows are used.

  Returns:
    `[n]`, -inf where masked.
  """
  counted = (mask > 0) | ~jnp.any(mask > 0)
  count = jnp.sum(counted, dtype=mask.dtype)
  return jnp.where(counted, -jnp.log(count), -jnp.inf)


def mean_transport_cost(
  costs: Float[Array, "n m"],
  log_a: Float[Array, " n"],
  log_b: Float[Array, " m"],
) -> Float[Array, ""]:
  """Returns the weighted mean cost, 1 if it is 0, without gradient.

  Args:
    costs: `[n, m]`.
    log_a: logarithms of the first sample's weights, `[n]`.
    log_b: logarithms of the second sample's weights, `[m]`.

  Returns:
    A scalar.
  """
  pairs = jnp.exp(log_a[:, None] + log_b[None])
  mean = jnp.sum(pairs * jax.lax.stop_gradient(costs))
  return jnp.where(mean > 0, mean, 1.0)


def sinkhorn_potentials(
  costs: Float[Array, "n m"],
  log_a: Float[Array, " n"],
  log_b: Float[Array, " m"],
  epsilon: Float[Array, ""],
  num_iterations: int,
  *,
  symmetric: bool = False,
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
  """Returns the dual potentials of Sinkhorn's algorithm, without gradient.

  In the first half of the iterations, epsilon falls geometrically from the
  largest cost to its final value.

  Args:
    costs: `[n, m]`.
    log_a: logarithms of the first sample's weights, `[n]`.
    log_b: logarithms of the second sample's weights, `[m]`.
    epsilon: the weight of the entropy, above 0.
    num_iterations: the number of iterations.
    symmetric: whether both samples are equal, which halves the cost.

  Returns:
    The potentials of both samples, `[n]` and `[m]`.
  """
  costs, epsilon = jax.lax.stop_gradient((costs, epsilon))
  steps = jnp.linspace(1, -1, num_iterations, dtype=costs.dtype)
  ratio = jnp.maximum(jnp.max(costs) / epsilon, 1)
  schedule = epsilon * ratio ** jnp.maximum(steps, 0)

  def dual(
    costs: Array, log_weights: Array, potential: Array, epsilon: Array
  ) -> Array:
    gain = (potential[None] - costs) / epsilon
    return -epsilon * jax.nn.logsumexp(gain + log_weights[None], 1)

  def iterate(pair: tuple[Array, Array], epsilon: Array) -> tuple[Any, None]:
    f, g = pair
    f_new = dual(costs, log_b, g, epsilon)
    if symmetric:
      f = (f + f_new) / 2
      return (f, f), None
    return (f_new, dual(costs.T, log_a, f_new, epsilon)), None

  # Made from the costs, so that both vary over the same devices.
  start = jnp.zeros_like(costs[:, 0]), jnp.zeros_like(costs[0])
  pair, _ = jax.lax.scan(iterate, start, schedule)
  return pair


def log_transport_plan(
  costs: Float[Array, "n m"],
  log_a: Float[Array, " n"],
  log_b: Float[Array, " m"],
  pair: tuple[Float[Array, " n"], Float[Array, " m"]],
  epsilon: Float[Array, ""],
) -> Float[Array, "n m"]:
  """Returns the logarithm of the transport plan, -inf for masked rows.

  Args:
    costs: `[n, m]`.
    log_a: logarithms of the first sample's weights, `[n]`.
    log_b: logarithms of the second sample's weights, `[m]`.
    pair: the potentials of both samples.
    epsilon: the weight of the entropy, above 0.

  Returns:
    `[n, m]`.
  """
  gain = (pair[0][:, None] + pair[1][None] - costs) / epsilon
  return log_a[:, None] + log_b[None] + gain


def entropic_transport_cost(
  costs: Float[Array, "n m"],
  log_a: Float[Array, " n"],
  log_b: Float[Array, " m"],
  epsilon: Float[Array, ""],
  num_iterations: int,
  *,
  symmetric: bool = False,
) -> Float[Array, ""]:
  """Returns min <P, C> + epsilon KL(P || a b), computed from its dual.

  At the optimum, the derivative by the costs is the plan P, so the potentials
  need no gradient.

  Args:
    costs: `[n, m]`.
    log_a: logarithms of the first sample's weights, `[n]`.
    log_b: logarithms of the second sample's weights, `[m]`.
    epsilon: the weight of the entropy, above 0.
    num_iterations: the number of iterations.
    symmetric: whether both samples are equal.

  Returns:
    A scalar.
  """
  pair = sinkhorn_potentials(
    costs, log_a, log_b, epsilon, num_iterations, symmetric=symmetric
  )
  plan = jnp.exp(log_transport_plan(costs, log_a, log_b, pair, epsilon))
  weights = jnp.exp(log_a), jnp.exp(log_b)
  value = sum(jnp.sum(p * w) for p, w in zip(pair, weights, strict=True))
  return value - epsilon * (jnp.sum(plan) - 1)


def absolute_epsilon(
  epsilon: ArrayLike, scale: str, mean: Float[Array, ""]
) -> Float[Array, ""]:
  """Returns epsilon in the unit of the costs.

  Args:
    epsilon: above 0.
    scale: "mean" if epsilon is a multiple of the mean cost, or "absolute".
    mean: the mean cost.

  Returns:
    A scalar.
  """
  check_choice("scale", scale, ("mean", "absolute"))
  absolute = as_number("epsilon", epsilon, mean.dtype)
  return absolute * mean if scale == "mean" else absolute
