"""Importance weights from density-ratio models: KLIEP, uLSIF and RuLSIF."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops

Candidates = ArrayLike | Sequence[float] | None
_LEAST_LOG_MEAN = -36.0  # log 2.3e-16, adapt's bound for centers
_product = functools.partial(jnp.matmul, precision="highest")


class _Distances(NamedTuple):
  """Squared distances of both samples to the centers, or logs of kernels."""

  source: Float[Array, "source centers"]
  target: Float[Array, "target centers"]
  is_center: Bool[Array, " centers"]


class _Splits(NamedTuple):
  """Masks of the rows that each fold holds out."""

  source: Bool[Array, "folds source"]
  target: Bool[Array, "folds target"]


@ops.validate
def kliep_weights(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  gamma: Candidates = None,
  num_centers: int = 100,
  num_folds: int = 5,
  key: Any | None = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Kullback-Leibler importance estimation (KLIEP): weights of source rows.

  .. math::
    w(x) = \sum_l \alpha_l\, k(x, c_l), \qquad
    \max_{\alpha \ge 0} \sum_j \log w(t_j) \quad \text{with} \quad
    \operatorname{mean}_i w(s_i) = 1

  The centers c are target rows, and k = exp(-gamma d^2). An interior-point
  method solves the convex program to a relative duality gap of 1e-9 in float64
  and 1e-5 in float32. Centers with a mean kernel over the source below 2.3e-16
  are left out, as in adapt, unless all centers are below. The kernels are
  normalized in log space, so distant domains also get finite weights.

  Args:
    source: `[source, dims]`, standardized if the units of the features differ.
    target: `[target, dims]`; the number of rows may differ.
    gamma: the rate of the kernel; None is 1 / dims. Of several candidates,
      `[candidates]`, the one with the largest held-out likelihood is used (the
      paper's LCV).
    num_centers: the largest number of centers. The paper, skada and adapt: 100,
      drawn at random.
    num_folds: the number of folds to choose among candidates. Row j of the
      target is held out in fold j mod `num_folds`.
    key: a JAX random key that draws the centers and folds. None: they follow
      the order of the rows.
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples. Rows are
      gathered; each device returns the weights of its own rows.

  Returns:
    `[source]`, not negative, of mean 1, without gradient. All weights are 1 if
    a domain has no rows.

  Raises:
    ValueError: if the widths differ, a static gamma is not above 0, or there
      are too few folds or centers.

  Differs from published code: skada's step size is the machine epsilon, so its
  solution stays at the first projection. adapt's Frank-Wolfe method has 2000
  steps of size 2 / k and raises an error if all kernels between source rows
  and centers are 0.

  Examples:
    >>> source = jnp.array([[0.0], [1.0], [2.0]])
    >>> weights = kliep_weights(source, jnp.array([[1.0], [1.2]]), gamma=4.0)
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['0.01', '2.74', '0.25']

  References:
    Sugiyama et al., `Direct importance estimation for covariate shift
    adaptation <https://doi.org/10.1007/s10463-008-0197-x>`_, 2008.
  """
  pair = jax.lax.stop_gradient(
    ops.as_sample_pair(source, target, where_source, where_target, axis_name)
  )
  distances, splits = _centered(pair, num_centers, num_folds, key)
  rates = _rates(gamma, pair)

  def fit(rate: Array, _: Array, target_mask: Array) -> Array:
    logs = _log_ratios(rate, distances, pair.source_mask)
    return ops.maximum_likelihood_mixture(logs.target, target_mask)

  def score(rate: Array, solution: Array, _: Array, held_out: Array) -> Array:
    logs = _log_ratios(rate, distances, pair.source_mask).target
    likelihood = jax.nn.logsumexp(logs, axis=1, b=solution[None])
    # The log of a ratio of 0 is that of the least number, not -inf.
    least = jnp.log(jnp.finfo(likelihood.dtype).tiny)
    return _mean(ops.at_least(likelihood, least), held_out)

  rate = rates[0]
  if rates.size > 1:
    scores = _cross_validated(fit, score, rates, pair, splits)
    rate = rates[jnp.argmax(scores)]
  solution = fit(rate, pair.source_mask, pair.target_mask)
  logs = _log_ratios(rate, distances, pair.source_mask)
  weights = _product(jnp.exp(logs.source), solution)
  weights = jnp.where(jnp.sum(pair.target_mask) > 0, weights, 1.0)
  weights = ops.weights_of_mean_one(weights, pair.source_mask)
  return ops.local_rows(weights, source.shape[0], axis_name)


@ops.validate
def ulsif_weights(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  gamma: Candidates = None,
  ridge: Candidates = 1.0,
  alpha: ArrayLike = 0.0,
  num_centers: int = 100,
  num_folds: int = 5,
  key: Any | None = None,
  normalize: bool = True,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Least-squares importance fitting (uLSIF; RuLSIF for alpha > 0).

  .. math::
    \theta = \max\bigl(0, (H + \lambda I)^{-1} h\bigr), \qquad
    w(x) = \sum_l \theta_l\, k(x, c_l),
  .. math::
    H = \alpha \operatorname{mean}_j \phi(t_j) \phi(t_j)^\top
      + (1 - \alpha) \operatorname{mean}_i \phi(s_i) \phi(s_i)^\top, \qquad
    h = \operatorname{mean}_j \phi(t_j)

  with phi_l(x) = k(x, c_l) = exp(-gamma d^2) at target rows c. alpha = 0 fits
  p_T / p_S. alpha > 0 fits the relative ratio
  p_T / (alpha p_T + (1 - alpha) p_S), which is at most 1 / alpha and has less
  variance where the source density is small.

  Args:
    source: `[source, dims]`, standardized if the units of the features differ.
    target: `[target, dims]`; the number of rows may differ.
    gamma: the rate of the kernel; None is 1 / dims.
    ridge: lambda > 0. adapt: 1. Of several rates and ridges, `[candidates]`
      each, the pair with the least held-out squared error is used.
    alpha: in [0, 1). The RuLSIF paper and adapt: 0.1.
    num_centers: the largest number of centers. adapt: 100, drawn at random.
    num_folds: the number of folds to choose among candidates. Row i of a domain
      is held out in fold i mod `num_folds`.
    key: a JAX random key that draws the centers and folds. None: they follow
      the order of the rows.
    normalize: whether weights are scaled to mean 1. False returns the estimate
      w.
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples. Rows are
      gathered; each device returns the weights of its own rows.

  Returns:
    `[source]`, not negative, without gradient. All weights are 1 if a domain
    has no rows or all kernels between source rows and centers are 0.

  Raises:
    ValueError: if the widths differ, a static gamma or ridge is not above 0,
      alpha is outside [0, 1], or there are too few folds or centers.

  Differs from published code: candidates are compared by folds, as in the code
  of the RuLSIF authors; the uLSIF paper leaves out one row at a time. A wrong
  bracket in adapt's leave-one-out score adds terms of both domains for
  alpha > 0.

  Examples:
    >>> source = jnp.array([[0.0], [1.0], [2.0]])
    >>> target = jnp.array([[1.0], [1.2]])
    >>> weights = ulsif_weights(source, target, gamma=4.0, ridge=0.1)
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['0.02', '2.79', '0.19']

  References:
    Kanamori et al., `A least-squares approach to direct importance estimation
    <https://jmlr.org/papers/v10/kanamori09a.html>`_, 2009; Yamada et al.,
    `Relative density-ratio estimation for robust distribution comparison
    <https://arxiv.org/abs/1106.4729>`_, 2011.
  """
  pair = jax.lax.stop_gradient(
    ops.as_sample_pair(source, target, where_source, where_target, axis_name)
  )
  distances, splits = _centered(pair, num_centers, num_folds, key)
  rates = _rates(gamma, pair)
  dtype = pair.source.dtype
  share = ops.as_fraction("alpha", alpha, dtype)
  ridges = _candidates("ridge", ridge, dtype)
  rates, ridges = (x.ravel() for x in jnp.meshgrid(rates, ridges))
  choices = jnp.stack([rates, ridges], 1)

  def fit(choice: Array, source_mask: Array, target_mask: Array) -> Array:
    return _ulsif(choice, share, distances, source_mask, target_mask)

  def score(choice: Array, solution: Array, *held_out: Array) -> Array:
    at_source, at_target = (
      _product(jnp.exp(-choice[0] * x), solution) for x in distances[:2]
    )
    of_source, of_target = held_out
    return (
      _mean(at_target, of_target)
      - share * _mean(jnp.square(at_target), of_target) / 2
      - (1 - share) * _mean(jnp.square(at_source), of_source) / 2
    )

  choice = choices[0]
  if choices.shape[0] > 1:
    scores = _cross_validated(fit, score, choices, pair, splits)
    choice = choices[jnp.argmax(scores)]
  solution = fit(choice, pair.source_mask, pair.target_mask)
  weights = _product(jnp.exp(-choice[0] * distances.source), solution)
  weights = jnp.where(jnp.sum(pair.target_mask) > 0, weights, 1.0)
  weights *= pair.source_mask
  if normalize:
    weights = ops.weights_of_mean_one(weights, pair.source_mask)
  return ops.local_rows(weights, source.shape[0], axis_name)


def _rates(
  gamma: Candidates, pair: ops.SamplePair
) -> Float[Array, " candidates"]:
  if gamma is None:
    return ops.gaussian_rate(None, pair.source)[None]
  return _candidates("gamma", gamma, pair.source.dtype)


def _candidates(
  name: str, value: Candidates, dtype: jnp.dtype
) -> Float[Array, " candidates"]:
  ops.check_positive(name, value)
  values = jnp.atleast_1d(jnp.asarray(value, dtype))
  if values.ndim > 1 or not values.size:
    raise ValueError(
      f"{name} has shape {values.shape}; expected a number or [candidates]."
    )
  return values


def _centered(
  pair: ops.SamplePair, num_centers: int, num_folds: int, key: Any | None
) -> tuple[_Distances, _Splits]:
  """Returns the distances to the centers, and the folds of both samples."""
  ops.check_integer("num_centers", num_centers, 1)
  ops.check_integer("num_folds", num_folds, 2)
  keys = (None, None) if key is None else jax.random.split(key)

  def ranks(mask: Array, key: Any | None) -> Array:
    """Returns ranks in a shuffled order that starts with the unmasked rows."""
    order = jnp.arange(mask.size)
    if key is not None:
      order = jax.random.permutation(key, order)
    return jnp.argsort(jnp.argsort(jnp.where(mask > 0, 0, mask.size) + order))

  of_source = ranks(pair.source_mask, keys[0])
  of_target = ranks(pair.target_mask, keys[1])
  chosen = jnp.argsort(of_target)[:num_centers]
  centers = pair.target[chosen]
  distances = _Distances(
    ops.pairwise_squared_distances(pair.source, centers),
    ops.pairwise_squared_distances(pair.target, centers),
    pair.target_mask[chosen] > 0,
  )
  index = jnp.arange(num_folds)[:, None]
  return distances, _Splits(
    of_source[None] % num_folds == index, of_target[None] % num_folds == index
  )


def _cross_validated(
  fit: Callable[[Array, Array, Array], Array],
  score: Callable[[Array, Array, Array, Array], Array],
  candidates: Float[Array, "candidates ..."],
  pair: ops.SamplePair,
  splits: _Splits,
) -> Float[Array, " candidates"]:
  """Returns the mean score of held-out rows for each candidate."""
  masks = pair.source_mask, pair.target_mask

  def one(candidate: Array) -> Array:
    def fold(*held_out: Array) -> Array:
      kept = [mask * ~out for mask, out in zip(masks, held_out, strict=True)]
      left = [mask * out for mask, out in zip(masks, held_out, strict=True)]
      return score(candidate, fit(candidate, *kept), *left)

    return jnp.mean(jax.vmap(fold)(*splits))

  return jax.lax.map(one, candidates)


def _mean(values: Array, mask: Array) -> Array:
  return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _ulsif(
  choice: Float[Array, " 2"],
  share: Float[Array, ""],
  distances: _Distances,
  source_mask: Float[Array, " source"],
  target_mask: Float[Array, " target"],
) -> Float[Array, " centers"]:
  """Returns theta for a rate and a ridge."""
  rate, ridge = choice
  is_center = distances.is_center[None]
  source, target = (
    jnp.where(is_center, jnp.exp(-rate * x), 0.0) for x in distances[:2]
  )
  of_source = source_mask / jnp.maximum(jnp.sum(source_mask), 1)
  of_target = target_mask / jnp.maximum(jnp.sum(target_mask), 1)
  products = share * _product(target.T, of_target[:, None] * target)
  products += (1 - share) * _product(source.T, of_source[:, None] * source)
  matrix = products + ridge * jnp.eye(products.shape[0], dtype=products.dtype)
  with jax.default_matmul_precision("highest"):
    solution = cho_solve(cho_factor(matrix), of_target @ target)
  return ops.at_least(solution, 0.0)


def _log_ratios(
  rate: Float[Array, ""],
  distances: _Distances,
  source_mask: Float[Array, " source"],
) -> _Distances:
  """Returns the logs of kernels whose mean over the source is 1."""
  source, target, is_center = distances
  count = jnp.maximum(jnp.sum(source_mask), 1)
  means = jax.nn.logsumexp(-rate * source, axis=0, b=source_mask[:, None])
  means = jnp.where(jnp.isfinite(means), means - jnp.log(count), 0.0)
  # Near a center whose kernels over the source vanish the ratio is unbounded,
  # and its rate would have the largest held-out likelihood.
  bounded = is_center & (means > _LEAST_LOG_MEAN)
  is_center = jnp.where(jnp.any(bounded), bounded, is_center)

  def normalized(squares: Array) -> Array:
    return jnp.where(is_center[None], -rate * squares - means[None], -jnp.inf)

  return _Distances(normalized(source), normalized(target), is_center)
