"""Optimal transport distances between two domains."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops

# The largest cost of a class, in nats: of a class at -inf.
_LEAST_LOG_PROBABILITY = -1e5


@ops.validate
def sinkhorn_divergence(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  epsilon: ArrayLike = 0.05,
  scale: str = "mean",
  cost: str = "squared_euclidean",
  num_iterations: int = 100,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Sinkhorn divergence: entropic optimal transport without entropic bias.

  .. math::
    S = W(S, T) - \tfrac12 W(S, S) - \tfrac12 W(T, T), \qquad
    W(A, B) = \min_P \langle P, C \rangle
      + \epsilon \operatorname{KL}(P \Vert a \otimes b)

  for points of equal mass. It is not negative and 0 for equal samples. For
  epsilon to 0 it tends to optimal transport, for epsilon to infinity to a
  kernel distance (the squared distance of the means, for squared costs).

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    epsilon: the strength of the entropic regularization, > 0. May be traced.
    scale: "mean" multiplies epsilon by the mean cost between the domains
      (without gradient), so that epsilon does not depend on the scale of the
      features. With "absolute" epsilon is in units of the cost.
    cost: "squared_euclidean", ||x - y||^2 (POT, OTT; GeomLoss halves it),
      "euclidean", or "cosine", 1 - cos (Dassl).
    num_iterations: the number of Sinkhorn iterations; a static integer. Epsilon
      is annealed over the first half of them. A smaller epsilon
      needs more iterations.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no rows.

  Raises:
    ValueError: if the widths differ, a static epsilon is not above 0, or an
      option is unknown.
    TypeError: if `num_iterations` is not an integer.

  The gradient is that of the optimum, where the dual potentials need no
  gradient. Published codes differ: W is the regularized cost in OTT, GeomLoss
  and here, and only the part <P, C> in POT and Dassl. Dassl's value is twice
  this form, with cosine costs, an absolute epsilon of 0.01 and 5 iterations.

  Examples:
    >>> points = jnp.array([[0.0], [1.0]])
    >>> print(f"{sinkhorn_divergence(points, points + 2.0):.3f}")
    4.000
    >>> print(f"{abs(sinkhorn_divergence(points, points[::-1])):.3f}")
    0.000

  References:
    Genevay, Peyre and Cuturi, `Learning generative models with Sinkhorn
    divergences <https://arxiv.org/abs/1706.00292>`_, 2018; Feydy et al.,
    `Interpolating between optimal transport and MMD
    <https://arxiv.org/abs/1810.08278>`_, 2019.
  """
  ops.check_positive("epsilon", epsilon)
  ops.check_integer("num_iterations", num_iterations, 2)
  dtype = jnp.promote_types(source.dtype, target.dtype)
  source, mask_source = ops.gathered_rows(
    source.astype(dtype), where_source, axis_name
  )
  target, mask_target = ops.gathered_rows(
    target.astype(dtype), where_target, axis_name
  )
  log_s, log_t = map(ops.log_uniform_weights, (mask_source, mask_target))
  between = ops.transport_costs(source, target, cost)
  mean = ops.mean_transport_cost(between, log_s, log_t)
  epsilon = ops.absolute_epsilon(epsilon, scale, mean)
  value = ops.entropic_transport_cost(
    between, log_s, log_t, epsilon, num_iterations
  )
  for rows, shares in ((source, log_s), (target, log_t)):
    within = ops.transport_costs(rows, rows, cost)
    value -= 0.5 * ops.entropic_transport_cost(
      within, shares, shares, epsilon, num_iterations, symmetric=True
    )
  present = jnp.any(mask_source > 0) & jnp.any(mask_target > 0)
  return ops.mean_over_devices(jnp.where(present, value, 0.0), axis_name)


@ops.validate
def sliced_wasserstein(
  key: Any | None,
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_directions: int = 128,
  directions: Float[Array, "dims directions"] | None = None,
  power: ArrayLike = 2.0,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Sliced Wasserstein distance: optimal transport of random projections.

  .. math::
    \ell = \operatorname*{mean}_r \int_0^1
      \bigl| Q_{S \theta_r}(u) - Q_{T \theta_r}(u) \bigr|^p \, du

  with Q the quantile function of a projected sample. For samples of equal size
  it is the mean power of the gaps between sorted projections. It is exact for
  all sizes.

  Args:
    key: a JAX random key for directions that are uniform on the sphere: a new
      key at each step, the same key on all devices. None with `directions`.
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    num_directions: the number of random directions; a static integer.
    directions: `[dims, directions]`, fixed directions: columns of norm 1.
    power: p >= 1. May be traced.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar, the p-th power of the distance (POT takes the root); 0 with
    gradient 0 if a domain has no row. pytorch-adapt always has 128 directions,
    equal sizes and p = 2. The sliced discrepancy of two classifiers (SWD) is
    this distance between their probabilities.

  Raises:
    ValueError: if the widths differ, or both key and directions are given.
    TypeError: if the key is not a JAX random key.

  Examples:
    >>> points = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    >>> shifted = points + jnp.array([[3.0, 0.0]])
    >>> axes = jnp.eye(2)
    >>> sliced_wasserstein(None, points, shifted, directions=axes)
    Array(4.5, dtype=float32)

  References:
    Bonneel et al., `Sliced and Radon Wasserstein barycenters
    <https://doi.org/10.1007/s10851-014-0506-3>`_, 2015; Lee et al., `Sliced
    Wasserstein discrepancy <https://arxiv.org/abs/1903.04064>`_, 2019.
  """
  ops.check_integer("num_directions", num_directions, 1)
  if key is not None and directions is not None:
    raise ValueError(
      "sliced_wasserstein: got key and directions; expected one of them. Pass "
      "None for key to use the directions."
    )
  dtype = jnp.promote_types(source.dtype, target.dtype)
  source, mask_source = ops.gathered_rows(
    source.astype(dtype), where_source, axis_name
  )
  target, mask_target = ops.gathered_rows(
    target.astype(dtype), where_target, axis_name
  )
  dtype = source.dtype
  if directions is None:
    if key is None:
      raise TypeError(
        "sliced_wasserstein: key is None; expected a JAX random key, or "
        "directions."
      )
    shape = source.shape[1], num_directions
    drawn = jax.random.normal(key, shape, dtype)
    directions = drawn / jnp.linalg.norm(drawn, axis=0, keepdims=True)
  axes = directions.astype(dtype)
  ops.check_range("power", power, 1.0, math.inf)
  power = ops.as_number("power", power, dtype)
  n_source, n_target = (
    jnp.sum(mask > 0, dtype=jnp.int32) for mask in (mask_source, mask_target)
  )

  def ordered(rows: Array, mask: Array, other: Array) -> tuple[Array, Array]:
    """Returns sorted projections, and the end of each quantile interval.

    Ends are integers, in units of 1 / (n_source * n_target).
    """
    values = jnp.matmul(rows, axes, precision="highest")
    keys = jnp.where(mask[:, None] > 0, values, jnp.inf)
    order = jnp.argsort(jax.lax.stop_gradient(keys), axis=0)
    values = jnp.take_along_axis(values, order, 0)
    return values, jnp.cumsum((mask[order[:, 0]] > 0).astype(jnp.int32)) * other

  values_s, ends_s = ordered(source, mask_source, n_target)
  values_t, ends_t = ordered(target, mask_target, n_source)
  # Between two consecutive ends both quantile functions are constant.
  ends = jnp.sort(jnp.concatenate([ends_s, ends_t]))
  widths = jnp.diff(ends, prepend=jnp.zeros(1, ends.dtype))

  def places(own: Array) -> Array:
    """Returns the intervals of a sample, in which the ends lie."""
    if ops.is_symbolic(
      own.size
    ):  # A binary search has a fixed number of steps.
      return jnp.sum(own[None] < ends[:, None], 1)
    return jnp.searchsorted(own, ends, side="left")

  at_s, at_t = (jnp.minimum(places(e), e.size - 1) for e in (ends_s, ends_t))
  gaps = jnp.abs(values_s[at_s] - values_t[at_t])
  used = (widths[:, None] > 0) & (gaps != 0)
  powers = jnp.where(used, jnp.where(used, gaps, 1.0) ** power, 0.0)
  units = jnp.maximum((n_source * n_target).astype(dtype), 1)
  shares = widths.astype(dtype) / units
  value = jnp.sum(shares[:, None] * powers) / axes.shape[1]
  return ops.mean_over_devices(value, axis_name)


@ops.validate
def deepjdot_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_labels: Integer[Array, " source"],
  target_logits: Float[Array, "target classes"],
  *,
  feature_weight: ArrayLike = 0.001,
  class_weight: ArrayLike = 0.0001,
  plan: Float[Array, "rows columns"] | None = None,
  epsilon: ArrayLike = 0.01,
  num_iterations: int = 200,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Deep joint distribution optimal transport (DeepJDOT).

  .. math::
    C_{ij} = \alpha \lVert s_i - t_j \rVert^2
      - \lambda \log p_{y_i}(t_j), \qquad
    \ell = \sum_{ij} \gamma_{ij} C_{ij}, \qquad
    \gamma = \operatorname*{arg\,min}_{\gamma \in \Pi} \langle \gamma, C \rangle

  The transport plan gamma couples features and labels; it gets no gradient.

  Args:
    source: `[source, dims]`, the features.
    target: `[target, dims]`; the number of rows may differ.
    source_labels: `[source]`.
    target_logits: `[target, classes]`, of the classifier. The cost of a class
      at -inf is 10^5 nats.
    feature_weight: alpha. May be traced.
    class_weight: lambda. May be traced.
    plan: `[source, target]`, gamma from another solver (the authors: the exact
      plan for equal masses, from POT). With `axis_name`, the plan of the
      gathered batch.
    epsilon: the entropic regularization of the plan, in units of the mean cost,
      without `plan`. For epsilon to 0 the plan tends to the exact plan. May be
      traced.
    num_iterations: the number of Sinkhorn iterations; a static integer.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no rows. Published weight: 1,
    added to the cross-entropy on the source, with alpha = 0.001 and lambda =
    0.0001, in batches of 500.

  Raises:
    ValueError: if shapes differ or a static epsilon is not above 0.
    TypeError: if the labels are not integers.

  skada differentiates the exact cost, which has the same gradient, and repeats
  or cuts the target batch to the size of the source batch.

  Examples:
    >>> points, labels = jnp.array([[0.0], [1.0]]), jnp.array([0, 1])
    >>> logits = jnp.array([[0.0, 1e4], [1e4, 0.0]])
    >>> loss = deepjdot_loss(points, points[::-1], labels, logits)
    >>> print(f"{loss:.5f}")
    0.00000

  References:
    Damodaran et al., `DeepJDOT <https://arxiv.org/abs/1803.10081>`_, 2018.
  """
  ops.check_positive("epsilon", epsilon)
  ops.check_integer("num_iterations", num_iterations, 2)
  dtype = jnp.promote_types(source.dtype, target.dtype)
  source, mask_source = ops.gathered_rows(
    source.astype(dtype), where_source, axis_name
  )
  target, mask_target = ops.gathered_rows(
    target.astype(dtype), where_target, axis_name
  )
  logits, _ = ops.gathered_rows(target_logits, where_target, axis_name)
  one_hot = ops.one_hot_labels(
    source_labels,
    logits.shape[1],
    source.dtype,
    where_source,
    "source_labels",
  )
  one_hot, _ = ops.gathered_rows(one_hot, where_source, axis_name)
  log_p = ops.at_least(ops.log_softened_softmax(logits), _LEAST_LOG_PROBABILITY)
  confusion = jnp.matmul(one_hot, -log_p.T, precision="highest")
  gaps = ops.transport_costs(source, target, "squared_euclidean")
  costs = (
    ops.as_number("feature_weight", feature_weight, gaps.dtype) * gaps
    + ops.as_number("class_weight", class_weight, gaps.dtype) * confusion
  )
  if plan is None:
    log_s, log_t = map(ops.log_uniform_weights, (mask_source, mask_target))
    mean = ops.mean_transport_cost(costs, log_s, log_t)
    absolute = ops.absolute_epsilon(epsilon, "mean", mean)
    pair = ops.sinkhorn_potentials(
      costs, log_s, log_t, absolute, num_iterations
    )
    plan = jnp.exp(ops.log_transport_plan(costs, log_s, log_t, pair, absolute))
  elif plan.shape != costs.shape:
    raise ValueError(
      f"deepjdot_loss: plan has shape {plan.shape}; expected {costs.shape}, "
      "[source, target] of the whole batch."
    )
  plan = jax.lax.stop_gradient(plan.astype(costs.dtype))
  counted = (mask_source[:, None] * mask_target[None]) > 0
  return ops.mean_over_devices(
    jnp.sum(jnp.where(counted, plan * costs, 0.0)), axis_name
  )
