"""Domain interpolation (GOAT) along an optimal transport plan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.exportable
class InterpolatedDomains(NamedTuple):
  """A sequence of domains from a source to a target.

  Attributes:
    points: `[steps, pairs, dims]`. The points of the last step are target rows.
    source: `[pairs]`, the index of the source row of each pair.
    target: `[pairs]`, the index of the target row of each pair.
    mass: `[pairs]`, the share of each pair in the transport plan, in descending
      order; 0 for a pair with a masked row.
  """

  points: Float[Array, "steps pairs dims"]
  source: Int[Array, " pairs"]
  target: Int[Array, " pairs"]
  mass: Float[Array, " pairs"]


@ops.validate
def interpolate_domains(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_steps: int,
  num_pairs: int | None = None,
  epsilon: ArrayLike = 0.05,
  scale: str = "mean",
  cost: str = "squared_euclidean",
  num_iterations: int = 100,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
) -> InterpolatedDomains:
  r"""Domain interpolation (GOAT): generated domains between source and target.

  .. math::
    D_k = \bigl\{ (1 - t_k)\, x_i + t_k\, y_j : (i, j) \text{ among the
      heaviest entries of } P \bigr\}, \qquad t_k = k / K

  for the entropic optimal transport plan P from source points x to target
  points y of equal mass. Pass the domains to `gradual_self_training`, in order.
  Embeddings interpolate better than pixels: the authors interpolate embeddings
  of the source model.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    num_steps: K, the number of domains. The last domain is at the target.
    num_pairs: the number of entries of the plan to keep. The default is the
      number of rows of both domains together, as in skada.
    epsilon: as in `sinkhorn_divergence`. May be traced.
    scale: as in `sinkhorn_divergence`.
    cost: as in `sinkhorn_divergence`.
    num_iterations: as in `sinkhorn_divergence`.
    where_source: mask of the source rows.
    where_target: mask of the target rows.

  Returns:
    `InterpolatedDomains`. The points have gradients in both samples, without
    the gradient through the plan.

  Raises:
    ValueError: if widths differ, `num_steps` or `num_pairs` is out of range, a
      static epsilon is not above 0, or an option is unknown.
    TypeError: if `num_steps`, `num_pairs` or `num_iterations` is not an
      integer.

  Differs from the authors' code, which uses the exact plan with all its entries
  (at most the number of rows of both domains minus 1), and drops target points
  whose transported labels have low confidence.

  Examples:
    >>> source = jnp.array([[0.0, 0.0], [0.0, 1.0]])
    >>> target = jnp.array([[2.0, 3.0], [2.0, 2.0]])
    >>> between = interpolate_domains(source, target, num_steps=2, num_pairs=2)
    >>> print(between.source, between.target)
    [0 1] [1 0]
    >>> print(between.points[0])
    [[1. 1.]
     [1. 2.]]

  References:
    He et al., `Gradual domain adaptation: theory and algorithms
    <https://arxiv.org/abs/2310.13852>`_, 2024.
  """
  ops.check_integer("num_steps", num_steps, 1)
  ops.check_integer("num_iterations", num_iterations, 2)
  ops.check_positive("epsilon", epsilon)
  entries = source.shape[0] * target.shape[0]
  if num_pairs is None:
    most = source.shape[0] + target.shape[0], entries
    num_pairs = (
      jax.core.min_dim(*most) if ops.is_symbolic(entries) else min(most)
    )
  ops.check_integer("num_pairs", num_pairs, 1)
  if not ops.is_symbolic(entries) and num_pairs > entries:
    raise ValueError(
      f"num_pairs is {num_pairs}; expected at most {entries}, the number of "
      "entries of the plan."
    )
  dtype = jnp.promote_types(source.dtype, target.dtype)
  source, mask_source = ops.masked_rows(source.astype(dtype), where_source)
  target, mask_target = ops.masked_rows(target.astype(dtype), where_target)
  log_s, log_t = map(ops.log_uniform_weights, (mask_source, mask_target))
  costs = ops.transport_costs(*jax.lax.stop_gradient((source, target)), cost)
  mean = ops.mean_transport_cost(costs, log_s, log_t)
  epsilon = ops.absolute_epsilon(epsilon, scale, mean)
  duals = ops.sinkhorn_potentials(costs, log_s, log_t, epsilon, num_iterations)
  plan = jnp.exp(ops.log_transport_plan(costs, log_s, log_t, duals, epsilon))
  mass, entry = jax.lax.top_k(plan.ravel(), num_pairs)
  start, end = jnp.divmod(entry, target.shape[0])
  # With an empty mask the plan includes masked rows; their mass is set to 0.
  mass = jnp.where(mask_source[start] * mask_target[end] > 0, mass, 0.0)
  share = (
    jnp.arange(1, num_steps + 1, dtype=source.dtype)[:, None, None] / num_steps
  )
  points = (1 - share) * source[start][None] + share * target[end][None]
  return InterpolatedDomains(points, start, end, mass)
