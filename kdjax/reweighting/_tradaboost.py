"""TrAdaBoost: boosting with decreasing weights of misclassified source rows."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.exportable
class TrAdaBoost(NamedTuple):
  """Result of `tradaboost`.

  Attributes:
    scores: `[queries, classes]`, the share of the votes for each class, over
      the last half of the rounds. The predicted class is the arg max.
    source_weights: `[rounds, source]`, the weights with which each round
      learned. The weights of a round sum to 1 over both domains.
    target_weights: `[rounds, target]`.
    target_errors: `[rounds]`, the weighted error on the target.
  """

  scores: Float[Array, "queries classes"]
  source_weights: Float[Array, "rounds source"]
  target_weights: Float[Array, "rounds target"]
  target_errors: Float[Array, " rounds"]


@ops.exportable
class TrAdaBoostState(NamedTuple):
  """Weights of TrAdaBoost after a round.

  Attributes:
    source_weights: `[source]`, for the next round.
    target_weights: `[target]`, for the next round. The weights of both domains
      together sum to 1.
    target_error: the weighted error on the target in the last round, before it
      is clipped; 1/2 before the first round.
    vote: log(1 / beta_t), the weight of the last round in the final vote; 0
      before the first round.
  """

  source_weights: Float[Array, " source"]
  target_weights: Float[Array, " target"]
  target_error: Float[Array, ""]
  vote: Float[Array, ""]


def tradaboost_init(num_source: int, num_target: int) -> TrAdaBoostState:
  """TrAdaBoost's weights before the first round: equal for all rows.

  Args:
    num_source: the number of source rows.
    num_target: the number of target rows.

  Returns:
    The state of `tradaboost_update`.

  Raises:
    ValueError: if a number is negative.
    TypeError: if a number is not an integer.

  Examples:
    >>> tradaboost_init(2, 2).target_weights
    Array([0.25, 0.25], dtype=float32)

  References:
    Dai et al., `Boosting for transfer learning
    <https://doi.org/10.1145/1273496.1273521>`_, 2007.
  """
  ops.check_integer("num_source", num_source, 0)
  ops.check_integer("num_target", num_target, 0)
  size = num_source + num_target
  weights = jnp.full(size, 1 / max(size, 1), float)
  half = jnp.full((), 0.5, float)
  return TrAdaBoostState(
    weights[:num_source], weights[num_source:], half, 0 * half
  )


@ops.validate
def tradaboost_update(
  state: TrAdaBoostState,
  source_errors: Float[Array, " source"],
  target_errors: Float[Array, " target"],
  *,
  num_rounds: ArrayLike,
  error_floor: ArrayLike = 1e-3,
) -> TrAdaBoostState:
  r"""TrAdaBoost update: wrong source rows lose weight, wrong target rows gain.

  .. math::
    \epsilon_t = \frac{\sum_j w_j e_j}{\sum_j w_j}, \quad
    \beta_t = \frac{\epsilon_t}{1 - \epsilon_t}, \quad
    \beta = \frac1{1 + \sqrt{2 \ln n_s / N}}, \quad
    w_i \leftarrow w_i\, \beta^{e_i}, \quad
    w_j \leftarrow w_j\, \beta_t^{-e_j}

  Args:
    state: from `tradaboost_init` or the last update. Its weights are not
      negative; their sum may be any number above 0.
    source_errors: `[source]`, in [0, 1]: 1 for a row that this round's learner
      misclassifies, or half the L1 distance between the predicted and the true
      distribution.
    target_errors: `[target]`, in [0, 1].
    num_rounds: N, the number of rounds.
    error_floor: the target error is clipped to [error_floor, 1/2]. At 0 the
      paper's beta_t is 0 and the update is undefined; above 1/2 the update
      would raise the weights of correctly classified target rows.

  Returns:
    The next state, without gradient.

  Raises:
    ValueError: if lengths differ or a static number is not above 0.

  Differs from published code: transferlearning computes ln(n_s / N) in the
  place of 2 ln(n_s) / N, which is NaN for n_s < N, and stops at an error of 0;
  adapt has beta_t = error / (2 - error).

  Examples:
    >>> errors = jnp.array([0.0, 1.0])
    >>> state = tradaboost_init(2, 2)
    >>> state = tradaboost_update(state, errors, errors, num_rounds=2)
    >>> [f"{w:.3f}" for w in state.source_weights.tolist()]
    ['0.282', '0.154']
    >>> [f"{w:.3f}" for w in state.target_weights.tolist()]
    ['0.282', '0.282']

  References:
    Dai et al., `Boosting for transfer learning
    <https://doi.org/10.1145/1273496.1273521>`_, 2007, figure 1.
  """
  ops.check_positive("num_rounds", num_rounds)
  ops.check_positive("error_floor", error_floor)
  for name, errors, weights in (
    ("source_errors", source_errors, state.source_weights),
    ("target_errors", target_errors, state.target_weights),
  ):
    if errors.shape != weights.shape:
      raise ValueError(
        f"tradaboost_update: {name} has shape {errors.shape}; expected "
        f"{weights.shape}, one error for each weight of the state."
      )
  arrays = *state[:2], source_errors, target_errors
  dtype = jnp.result_type(*(ops.compute_dtype(x) for x in arrays))
  of_source, of_target, source_errors, target_errors = (
    jax.lax.stop_gradient(x.astype(dtype)) for x in arrays
  )
  rounds = ops.as_number("num_rounds", num_rounds, dtype)
  floor = ops.as_number("error_floor", error_floor, dtype)
  whole = jnp.sum(of_target)
  error = jnp.sum(of_target * target_errors) / jnp.where(whole > 0, whole, 1.0)
  limited = jnp.clip(error, jnp.minimum(floor, 0.5), 0.5)
  vote = jnp.log((1 - limited) / limited)
  # log(1) = 0: a single source row keeps its weight.
  size = jnp.asarray(max(of_source.size, 1), dtype)
  forget = jnp.log1p(jnp.sqrt(2 * jnp.log(size) / rounds))
  of_source = of_source * jnp.exp(-forget * source_errors)
  of_target = of_target * jnp.exp(vote * target_errors)
  scale = jnp.sum(of_source) + jnp.sum(of_target)
  scale = jnp.where(scale > 0, scale, 1.0)
  return TrAdaBoostState(of_source / scale, of_target / scale, error, vote)


@functools.partial(ops.validate, runs_functions=True)
def tradaboost(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_labels: Int[Array, " source"],
  target_labels: Int[Array, " target"],
  queries: Float[Array, "queries dims"],
  *,
  learner: Callable[[Array, Array, Array, Array], Array],
  num_classes: int,
  num_rounds: int = 10,
  error_floor: ArrayLike = 1e-3,
) -> TrAdaBoost:
  r"""TrAdaBoost: boosting on many source rows and few labeled target rows.

  .. math::
    h(x) = \arg\max_c \sum_{t > N / 2} \ln \frac1{\beta_t}\, h_t(x)_c

  Each round fits a learner to both domains with the weights of
  `tradaboost_update`. The last half of the rounds vote. The rounds run in a
  `jax.lax.scan`.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`, the few labeled rows of the target.
    source_labels: `[source]`, integers in [0, num_classes).
    target_labels: `[target]`.
    queries: `[queries, dims]`, the rows to classify.
    learner: `learner(rows, one_hot, weights, queries)` fits `[n, dims]` rows
      to `[n, num_classes]` labels with `[n]` weights of mean 1, and returns
      `[queries, num_classes]` probabilities or one-hot decisions.
    num_classes: the number of classes; static.
    num_rounds: N. transferlearning, adapt: 10; the paper: 100.
    error_floor: see `tradaboost_update`.

  Returns:
    Scores of the queries, and the weights and target errors of each round.

  Raises:
    ValueError: if shapes differ or a static number is too small.

  Differs from the paper, which has two classes: here a round splits its vote
  over the classes in proportion to the learner's probabilities, as in adapt.

  Examples:
    >>> def nearest_mean(rows, one_hot, weights, queries):
    ...   shares = one_hot * weights[:, None]
    ...   means = (shares.T @ rows) / jnp.sum(shares, 0)[:, None]
    ...   gaps = jnp.abs(queries - means[:, 0][None])
    ...   return jax.nn.one_hot(jnp.argmin(gaps, 1), 2)
    >>> rows = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> result = tradaboost(
    ...   rows, rows, labels, labels, jnp.array([[0.5], [2.5]]),
    ...   learner=nearest_mean, num_classes=2,
    ... )
    >>> jnp.argmax(result.scores, 1)
    Array([0, 1], dtype=int32)

  References:
    Dai et al., `Boosting for transfer learning
    <https://doi.org/10.1145/1273496.1273521>`_, 2007.
  """
  ops.check_integer("num_classes", num_classes, 1)
  ops.check_integer("num_rounds", num_rounds, 1)
  parts = source, target, queries
  dtype = jnp.result_type(*(ops.compute_dtype(x) for x in parts))
  rows = jnp.concatenate([source, target]).astype(dtype)
  labels = jnp.concatenate([source_labels, target_labels])
  labels = ops.one_hot_labels(labels, num_classes, dtype)
  rounds = boosting_rounds(
    learner,
    rows,
    labels,
    jnp.concatenate([rows, queries.astype(dtype)]),
    lambda predicted: jnp.sum(jnp.abs(predicted - labels), 1) / 2,
    num_source=source.shape[0],
    num_rounds=num_rounds,
    error_floor=error_floor,
  )
  shares = vote_shares(last_half(rounds.votes))
  scores = jnp.sum(shares[:, None, None] * rounds.predictions, 0)
  return TrAdaBoost(
    scores, rounds.source_weights, rounds.target_weights, rounds.target_errors
  )


class Rounds(NamedTuple):
  """Predictions, weights, errors and votes of all rounds of boosting."""

  predictions: Float[Array, "rounds queries ..."]
  source_weights: Float[Array, "rounds source"]
  target_weights: Float[Array, "rounds target"]
  target_errors: Float[Array, " rounds"]
  votes: Float[Array, " rounds"]


def boosting_rounds(
  learner: Callable[[Array, Array, Array, Array], Array],
  rows: Float[Array, "rows dims"],
  labels: Float[Array, "rows ..."],
  asked: Float[Array, "asked dims"],
  errors_of: Callable[[Array], Array],
  *,
  num_source: int,
  num_rounds: int,
  error_floor: ArrayLike,
) -> Rounds:
  """Fits a learner and updates the weights, round by round.

  `asked` holds the training rows and, after them, the queries; `errors_of`
  maps predictions of the training rows to errors.
  """
  size = rows.shape[0]

  def one_round(
    state: TrAdaBoostState, _: None
  ) -> tuple[TrAdaBoostState, Rounds]:
    weights = jnp.concatenate([state.source_weights, state.target_weights])
    predicted = learner(rows, labels, weights * size, asked)
    errors = errors_of(predicted[:size])
    following = tradaboost_update(
      state,
      errors[:num_source],
      errors[num_source:],
      num_rounds=num_rounds,
      error_floor=error_floor,
    )
    return following, Rounds(
      predicted[size:],
      state.source_weights,
      state.target_weights,
      following.target_error,
      following.vote,
    )

  start = tradaboost_init(num_source, size - num_source)
  start = jax.tree.map(lambda x: x.astype(rows.dtype), start)
  _, rounds = jax.lax.scan(one_round, start, None, length=num_rounds)
  return rounds


def last_half(votes: Float[Array, " rounds"]) -> Float[Array, " rounds"]:
  """Returns the votes of the last half of the rounds, 0 for the others."""
  count = votes.shape[0]
  return jnp.where(jnp.arange(count) >= count // 2, votes, 0.0)


def vote_shares(votes: Float[Array, " rounds"]) -> Float[Array, " rounds"]:
  """Returns votes of sum 1: equal votes if all votes are 0."""
  total = jnp.sum(votes)
  return jnp.where(
    total > 0, votes / jnp.where(total > 0, total, 1.0), 1 / votes.shape[0]
  )
