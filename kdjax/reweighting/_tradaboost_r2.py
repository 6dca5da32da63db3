"""TrAdaBoost.R2: boosting for regression, in one and in two stages."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.reweighting._tradaboost import (
  boosting_rounds,
  last_half,
  vote_shares,
)

# (rows, values, weights, queries) -> values of the queries.
Learner = Callable[[Array, Array, Array, Array], Array]


# Bisection steps on an interval of length 1: float64 has 52 binary digits.
_NUM_BISECTIONS = 60


@ops.exportable
class TrAdaBoostR2(NamedTuple):
  """Result of `tradaboost_r2`.

  Attributes:
    predictions: `[queries]`, the weighted median over the last half of the
      rounds.
    source_weights: `[rounds, source]`, the weights with which each round
      learned. The weights of a round sum to 1 over both domains.
    target_weights: `[rounds, target]`.
    target_errors: `[rounds]`, the weighted adjusted error on the target.
  """

  predictions: Float[Array, " queries"]
  source_weights: Float[Array, "rounds source"]
  target_weights: Float[Array, "rounds target"]
  target_errors: Float[Array, " rounds"]


@ops.exportable
class TwoStageTrAdaBoostR2(NamedTuple):
  """Result of `two_stage_tradaboost_r2`.

  Attributes:
    predictions: `[queries]`, of the step with the least error.
    source_weights: `[steps, source]`, the weights at the start of each step.
      The weights of a step sum to 1 over both domains.
    target_weights: `[steps, target]`.
    target_errors: `[steps]`, the cross-validated mean absolute error on the
      target.
  """

  predictions: Float[Array, " queries"]
  source_weights: Float[Array, "steps source"]
  target_weights: Float[Array, "steps target"]
  target_errors: Float[Array, " steps"]


@functools.partial(ops.validate, runs_functions=True)
def tradaboost_r2(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_values: Float[Array, " source"],
  target_values: Float[Array, " target"],
  queries: Float[Array, "queries dims"],
  *,
  learner: Learner,
  num_rounds: int = 10,
  error_floor: ArrayLike = 1e-3,
) -> TrAdaBoostR2:
  r"""TrAdaBoost.R2: boosting on both domains, for regression.

  .. math::
    e_i = \frac{|y_i - h_t(x_i)|}{\max_j |y_j - h_t(x_j)|}, \qquad
    h(x) = \operatorname*{median}_{t > N / 2}
      \Bigl(h_t(x); \ln \frac1{\beta_t}\Bigr)

  `tradaboost` with the adjusted error of AdaBoost.R2 and a weighted median: the
  least prediction at which the sorted votes reach half of their sum. The rounds
  run in a `jax.lax.scan`.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`, the few labeled rows of the target.
    source_values: `[source]`.
    target_values: `[target]`.
    queries: `[queries, dims]`, the rows to predict.
    learner: `learner(rows, values, weights, queries)` fits `[n, dims]` rows to
      `[n]` values with `[n]` weights of mean 1, and returns `[queries]`
      predictions.
    num_rounds: N. adapt: 10.
    error_floor: see `tradaboost_update`.

  Returns:
    Predictions of the queries, and the weights and target errors of each round.

  Raises:
    ValueError: if shapes differ or a static number is too small.

  Differs from the paper, which stops at a weighted error of 1/2: here such a
  round has vote 0 and changes no target weight. In adapt beta_t is
  error / (2 - error), so the target weights grow faster.

  Examples:
    >>> def mean(rows, values, weights, queries):
    ...   return jnp.full(len(queries), jnp.mean(weights * values))
    >>> rows, values = jnp.zeros((4, 1)), jnp.array([0.0, 0.0, 0.0, 4.0])
    >>> result = tradaboost_r2(
    ...   rows, rows[:2], values, values[:2], rows, learner=mean, num_rounds=5
    ... )  # The weight of the outlier.
    >>> print(*(f"{weight:.3f}" for weight in result.source_weights[:, 3]))
    0.167 0.097 0.053 0.029 0.016

  References:
    Pardoe and Stone, `Boosting for regression transfer
    <https://www.cs.utexas.edu/~dpardoe/papers/ICML10.pdf>`_, 2010; Drucker,
    Improving regressors using boosting techniques, 1997.
  """
  ops.check_integer("num_rounds", num_rounds, 1)
  rows, values, asked = _together(
    source, target, source_values, target_values, queries
  )
  rounds = boosting_rounds(
    learner,
    rows,
    values,
    asked,
    lambda predicted: _adjusted(jnp.abs(values - predicted)),
    num_source=source.shape[0],
    num_rounds=num_rounds,
    error_floor=error_floor,
  )
  shares = vote_shares(last_half(rounds.votes))
  return TrAdaBoostR2(
    _weighted_median(rounds.predictions, shares),
    rounds.source_weights,
    rounds.target_weights,
    rounds.target_errors,
  )


@functools.partial(ops.validate, runs_functions=True)
def two_stage_tradaboost_r2(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_values: Float[Array, " source"],
  target_values: Float[Array, " target"],
  queries: Float[Array, "queries dims"],
  *,
  learner: Learner,
  num_steps: int = 10,
  num_rounds: int = 10,
  num_folds: int = 5,
  error_floor: ArrayLike = 1e-3,
) -> TwoStageTrAdaBoostR2:
  r"""Two-stage TrAdaBoost.R2: source weight chosen by cross-validation.

  .. math::
    w_i \leftarrow w_i\, \beta_t^{e_i} / Z, \quad w_j \leftarrow w_j / Z, \quad
    \sum_j w_j = \frac{m}{n + m} + \frac{t}{S - 1} \frac{n}{n + m}

  for n source rows i and m target rows j. In each step the total weight of the
  source decreases; source rows with large errors of one learner decrease most.
  Each step runs AdaBoost.R2 on both domains, with fixed source weights, and
  measures its error by cross-validation on the target. The result is the
  weighted median of the step with the least error. Steps and rounds run in
  scans, the folds under vmap.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`, the few labeled rows of the target.
    source_values: `[source]`.
    target_values: `[target]`.
    queries: `[queries, dims]`, the rows to predict.
    learner: as in `tradaboost_r2`. It must ignore rows of weight 0.
    num_steps: S, at least 2. adapt: 10.
    num_rounds: the number of rounds of AdaBoost.R2. adapt: 10.
    num_folds: the number of folds. Row j of the target is held out in fold j
      mod `num_folds`, so the rows should be in random order. adapt: 5.
    error_floor: see `tradaboost_update`.

  Returns:
    Predictions of the queries, and the weights and errors of each step.

  Raises:
    ValueError: if shapes differ or a static number is too small.

  Differs from published code: in adapt and in jay15summer's code the first
  update has t = 0, so two steps have equal weights and no step is without
  source. adapt also measures the error of a step with one learner instead of
  AdaBoost.R2, and the errors of an update with AdaBoost.R2 instead of one
  learner. jay15summer's code fits learners to bootstrap samples and measures
  squared errors.

  Examples:
    >>> def mean(rows, values, weights, queries):
    ...   return jnp.full(len(queries), jnp.mean(weights * values))
    >>> rows = jnp.zeros((6, 1))
    >>> result = two_stage_tradaboost_r2(
    ...   rows, rows[:2], jnp.arange(6.0), jnp.array([0.0, 1.0]), rows[:1],
    ...   learner=mean, num_steps=4, num_rounds=3, num_folds=2,
    ... )
    >>> print(*(f"{sum(weights):.3f}" for weights in result.target_weights))
    0.250 0.500 0.750 1.000

  References:
    Pardoe and Stone, `Boosting for regression transfer
    <https://www.cs.utexas.edu/~dpardoe/papers/ICML10.pdf>`_, 2010.
  """
  ops.check_integer("num_steps", num_steps, 2)
  ops.check_integer("num_rounds", num_rounds, 1)
  ops.check_integer("num_folds", num_folds, 2)
  ops.check_positive("error_floor", error_floor)
  rows, values, asked = _together(
    source, target, source_values, target_values, queries
  )
  floor = ops.as_number("error_floor", error_floor, rows.dtype)
  size, num_source = rows.shape[0], source.shape[0]
  is_target = jnp.arange(size) >= num_source
  fold_of = jnp.where(
    is_target, (jnp.arange(size) - num_source) % num_folds, -1
  )
  # The last fold holds out no row.
  held_out = fold_of[None] == jnp.arange(num_folds + 1)[:, None]

  def fit(weights: Array, queries: Array) -> Array:
    return learner(rows, values, weights * size, queries)

  def boosted(weights: Array) -> Array:
    """Runs AdaBoost.R2 with fixed source weights."""

    def one_round(weights: Array, _: None) -> tuple[Array, tuple]:
      predicted = fit(weights, asked)
      # Held-out rows and rows of weight 0 do not set the largest error.
      gaps = jnp.where(weights > 0, jnp.abs(values - predicted[:size]), 0.0)
      errors = _adjusted(gaps)
      error = jnp.clip(jnp.sum(weights * errors), jnp.minimum(floor, 0.5), 0.5)
      vote = jnp.log((1 - error) / error)
      raised = weights * jnp.exp(-vote * (1 - errors))
      following = _scaled_to(raised, is_target, jnp.sum(weights * is_target))
      return jnp.where(is_target, following, weights), (predicted, vote)

    _, (predicted, votes) = jax.lax.scan(
      one_round, weights, None, length=num_rounds
    )
    return _weighted_median(predicted, vote_shares(votes))

  def one_step(weights: Array, share: Array) -> tuple[Array, tuple]:
    of_target = jnp.sum(weights * is_target)

    def of_fold(held_out: Array) -> Array:
      kept = jnp.where(held_out, 0.0, weights)
      scaled = _scaled_to(kept, is_target, of_target)
      return boosted(jnp.where(is_target, scaled, weights))

    predicted = jax.vmap(of_fold)(held_out)
    unseen = jnp.sum(jnp.where(held_out, predicted[:, :size], 0.0), 0)
    gaps = jnp.abs(values - unseen) * is_target
    error = jnp.sum(gaps) / jnp.maximum(size - num_source, 1)
    errors = _adjusted(jnp.abs(values - fit(weights, rows)))
    total = of_target * (1 - share) / share
    lowered = _lowered(jnp.where(is_target, 0.0, weights), errors, total)
    following = jnp.where(is_target, weights, lowered)
    found = predicted[-1, size:]
    return following / jnp.sum(following), (found, weights, error)

  shares = jnp.linspace(1 - num_source / size, 1.0, num_steps, dtype=rows.dtype)
  start = jnp.full(size, 1 / size, rows.dtype)
  # The weights after the last step are not used.
  shares = jnp.append(shares[1:], 1.0)
  _, (found, weights, errors) = jax.lax.scan(one_step, start, shares)
  return TwoStageTrAdaBoostR2(
    found[jnp.argmin(errors)],
    weights[:, :num_source],
    weights[:, num_source:],
    errors,
  )


def _together(
  source: Array,
  target: Array,
  source_values: Array,
  target_values: Array,
  queries: Array,
) -> tuple[Array, Array, Array]:
  """Returns the rows of both domains, their values, and rows plus queries."""
  parts = source, target, source_values, target_values, queries
  dtype = jnp.result_type(*(ops.compute_dtype(x) for x in parts))
  rows = jnp.concatenate([source, target]).astype(dtype)
  values = jnp.concatenate([source_values, target_values]).astype(dtype)
  return rows, values, jnp.concatenate([rows, queries.astype(dtype)])


def _adjusted(gaps: Float[Array, " rows"]) -> Float[Array, " rows"]:
  """Returns the adjusted errors of AdaBoost.R2: the largest error is 1."""
  gaps = jax.lax.stop_gradient(gaps)
  worst = jnp.max(gaps, initial=0.0)
  return gaps / jnp.where(worst > 0, worst, 1.0)


def _weighted_median(
  predictions: Float[Array, "rounds queries"], shares: Float[Array, " rounds"]
) -> Float[Array, " queries"]:
  """Returns the least prediction at which the sorted votes reach a half."""
  order = jnp.argsort(predictions, 0)
  cumulative = jnp.cumsum(shares[order], 0)
  place = jnp.argmax(cumulative >= cumulative[-1:] / 2, 0)[None]
  chosen = jnp.take_along_axis(order, place, 0)
  return jnp.take_along_axis(predictions, chosen, 0)[0]


def _scaled_to(
  weights: Float[Array, " rows"], which: Array, total: Array
) -> Float[Array, " rows"]:
  """Returns the weights, scaled so that the rows of `which` sum to `total`."""
  whole = jnp.sum(weights * which)
  return weights * (total / jnp.where(whole > 0, whole, 1.0))


def _lowered(
  weights: Float[Array, " rows"], errors: Float[Array, " rows"], total: Array
) -> Float[Array, " rows"]:
  """Returns weights times beta^errors that sum to `total`, beta in [0, 1].

  By bisection of u in [0, 1], where log(beta) = -u / (1 - u).
  """

  def at(u: Array) -> Array:
    return weights * jnp.exp(-errors * u / jnp.maximum(1 - u, 1e-30))

  def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bounds
    middle = (low + high) / 2
    enough = jnp.sum(at(middle)) <= total
    return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

  bounds = jnp.zeros_like(total), jnp.ones_like(total)
  _, high = jax.lax.fori_loop(0, _NUM_BISECTIONS, halve, bounds)
  # Corrects the rest of the bisection; rows of error 0 need this scaling.
  return _scaled_to(at(high), jnp.ones_like(weights), total)
