"""TrAdaBoost.R2 in one stage and in two, against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from kdjax.reweighting import tradaboost_r2, two_stage_tradaboost_r2

SLOPE = np.array([1.0, -1.0])


def data():
  """The source's values are 2 too large where the first dimension is."""
  rng = np.random.default_rng(1)
  source, target, queries = (rng.normal(size=(n, 2)) for n in (40, 9, 12))
  of_source = source @ SLOPE + 2 * (source[:, 0] > 0.5)
  of_source += 0.1 * rng.normal(size=40)
  of_target = target @ SLOPE + 0.1 * rng.normal(size=9)
  return source, target, of_source, of_target, queries


def least_squares(rows, values, weights, queries, np=np):
  """A ridge regression of weighted rows."""
  x = np.concatenate([rows, np.ones((len(rows), 1))], 1)
  asked = np.concatenate([queries, np.ones((len(queries), 1))], 1)
  weighted = (x * weights[:, None]).T
  # In the unit of the values: the ridge holds the weights of mean 1 together.
  gram = weighted @ x + 0.1 * np.eye(3)
  return asked @ np.linalg.solve(gram, weighted @ values)


learner = functools.partial(least_squares, np=jnp)


def adjusted(gaps):
  return gaps / gaps.max()


def weighted_median(predictions, votes):
  median = []
  for column in np.transpose(predictions):
    heard = 0.0
    for i in np.argsort(column):
      heard += votes[i]
      if heard >= np.sum(votes) / 2:
        median.append(column[i])
        break
  return np.array(median)


def test_one_stage_equals_the_paper():
  source, target, of_source, of_target, queries = data()
  with jax.enable_x64(True):
    run = functools.partial(tradaboost_r2, learner=learner, num_rounds=7)
    got = jax.device_get(jax.jit(run)(*data()))
  rows = np.concatenate([source, target])
  values = np.concatenate([of_source, of_target])
  weights = np.full(49, 1 / 49)
  beta = 1 / (1 + np.sqrt(2 * np.log(40) / 7))
  answers, votes = [], []
  for t in range(7):
    np.testing.assert_allclose(got.source_weights[t], weights[:40], rtol=1e-9)
    np.testing.assert_allclose(got.target_weights[t], weights[40:], rtol=1e-9)
    said = least_squares(
      rows, values, 49 * weights, np.concatenate([rows, queries])
    )
    errors = adjusted(np.abs(said[:49] - values))
    error = np.sum(weights[40:] * errors[40:]) / np.sum(weights[40:])
    assert 1e-3 < error < 0.5  # Else the paper would have stopped.
    np.testing.assert_allclose(got.target_errors[t], error, rtol=1e-9)
    beta_t = error / (1 - error)
    weights[:40] *= beta ** errors[:40]
    weights[40:] *= beta_t ** -errors[40:]
    weights /= weights.sum()
    answers.append(said[49:])
    votes.append(-np.log(beta_t))
  np.testing.assert_allclose(
    got.predictions, weighted_median(answers[3:], votes[3:]), rtol=1e-9
  )
  pooled = np.abs(answers[0] - queries @ SLOPE).mean()
  assert np.abs(got.predictions - queries @ SLOPE).mean() < pooled / 2


def boosted(rows, values, weights, n_source, rounds, asked):
  """AdaBoost.R2 that moves the target's weights alone."""
  weights = weights.copy()
  total = weights[n_source:].sum()
  answers, votes = [], []
  for _ in range(rounds):
    scaled = len(weights) * weights
    said = least_squares(rows, values, scaled, np.concatenate([rows, asked]))
    errors = adjusted(np.abs(said[: len(rows)] - values) * (weights > 0))
    error = np.clip(np.sum(weights * errors), 1e-3, 0.5)
    beta = error / (1 - error)
    weights[n_source:] *= beta ** (1 - errors[n_source:])
    weights[n_source:] *= total / weights[n_source:].sum()
    answers.append(said[len(rows) :])
    votes.append(-np.log(beta))
  return weighted_median(answers, votes)


@pytest.mark.slow
def test_two_stages_equal_the_paper():
  source, target, of_source, of_target, _ = data()
  steps, rounds, folds = 4, 3, 3
  run = functools.partial(
    two_stage_tradaboost_r2,
    learner=learner,
    num_steps=steps,
    num_rounds=rounds,
    num_folds=folds,
  )
  with jax.enable_x64(True):
    got = jax.device_get(jax.jit(run)(*data()))
  rows = np.concatenate([source, target])
  values = np.concatenate([of_source, of_target])
  weights = np.full(49, 1 / 49)
  errors = []
  for t in range(1, steps + 1):
    np.testing.assert_allclose(
      got.source_weights[t - 1], weights[:40], atol=1e-9
    )
    np.testing.assert_allclose(
      got.target_weights[t - 1], weights[40:], atol=1e-9
    )
    gaps = []
    for fold in range(folds):
      out = np.flatnonzero(np.arange(9) % folds == fold)
      kept = np.delete(np.arange(49), 40 + out)
      of_fold = weights[kept]
      of_fold[40:] *= weights[40:].sum() / of_fold[40:].sum()
      # The library's learner gets 49 rows of mean weight 1, here they are 46.
      said = boosted(
        np.concatenate([rows[kept], 0 * rows[:3]]),
        np.concatenate([values[kept], 0 * values[:3]]),
        np.concatenate([of_fold, np.zeros(3)]),
        40,
        rounds,
        target[out],
      )
      gaps.append(np.abs(said - of_target[out]))
    errors.append(np.mean(np.concatenate(gaps)))
    if t < steps:
      said = least_squares(rows, values, 49 * weights, rows)
      gap = adjusted(np.abs(said - values))[:40]
      share = 9 / 49 + t / (steps - 1) * 40 / 49
      if t == steps - 1:
        weights[:40] = 0
      else:
        total = weights[40:].sum() * (1 - share) / share
        power = brentq(
          lambda s, w=weights[:40], g=gap, c=total: (
            np.sum(w * np.exp(-s * g)) - c
          ),
          0,
          1e3,
          xtol=1e-13,
        )
        weights[:40] *= np.exp(-power * gap)
      weights /= weights.sum()
      np.testing.assert_allclose(weights[40:].sum(), share, rtol=1e-9)
  np.testing.assert_allclose(got.target_errors, errors, rtol=1e-8)
  # A later step is better than the first, which is all data alike.
  assert np.argmin(errors) > 0


@pytest.mark.slow
def test_two_stages_answer_as_their_best_step_does():
  source, target, of_source, of_target, queries = data()
  run = functools.partial(
    two_stage_tradaboost_r2, learner=learner, num_steps=4, num_rounds=3
  )
  with jax.enable_x64(True):
    got = jax.device_get(jax.jit(run)(*data()))
  best = int(np.argmin(got.target_errors))
  weights = np.concatenate([got.source_weights[best], got.target_weights[best]])
  expected = boosted(
    np.concatenate([source, target]),
    np.concatenate([of_source, of_target]),
    weights,
    40,
    3,
    queries,
  )
  np.testing.assert_allclose(got.predictions, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", [tradaboost_r2, two_stage_tradaboost_r2])
def test_extremes_are_finite(method):
  source, target, of_source, of_target, queries = map(np.float32, data())
  run = jax.jit(functools.partial(method, learner=learner))
  exact = source @ np.float32(SLOPE), target @ np.float32(SLOPE)
  constant = 0 * of_source + 3, 0 * of_target + 3
  for values in (exact, constant, (1e4 * of_source, 1e4 * of_target)):
    result = run(source, target, *values, queries)
    assert all(np.all(np.isfinite(x)) for x in result)
    weights = result.source_weights.sum(1) + result.target_weights.sum(1)
    np.testing.assert_allclose(weights, 1, rtol=1e-4)
  one = run(source, target[:1], of_source, of_target[:1], queries)
  assert all(np.all(np.isfinite(x)) for x in one)


@pytest.mark.slow
@pytest.mark.parametrize("method", [tradaboost_r2, two_stage_tradaboost_r2])
def test_several_floors_are_one_program(method):
  arguments = tuple(map(np.float32, data()))
  run = functools.partial(method, *arguments, learner=learner, num_rounds=3)
  floors = np.float32([1e-3, 0.4])

  @jax.jit
  def both(floors):
    several = jax.vmap(lambda floor: run(error_floor=floor).predictions)(floors)
    return several, run(error_floor=floors[1]).predictions

  several, one = both(floors)
  np.testing.assert_allclose(several[1], one, rtol=1e-4, atol=1e-5)
  assert not np.allclose(several[0], one, rtol=1e-3)


def test_errors_name_the_argument():
  source, target, of_source, of_target, queries = map(np.float32, data())
  with pytest.raises(ValueError, match=r"source_values has shape \(9,\)"):
    tradaboost_r2(
      source, target, of_target, of_target, queries, learner=learner
    )
  arguments = source, target, of_source, of_target, queries
  with pytest.raises(ValueError, match="num_rounds is 0"):
    tradaboost_r2(*arguments, learner=learner, num_rounds=0)
  with pytest.raises(ValueError, match="num_steps is 1"):
    two_stage_tradaboost_r2(*arguments, learner=learner, num_steps=1)
  with pytest.raises(ValueError, match="num_folds is 1"):
    two_stage_tradaboost_r2(*arguments, learner=learner, num_folds=1)
  with pytest.raises(ValueError, match="error_floor is 0"):
    two_stage_tradaboost_r2(*arguments, learner=learner, error_floor=0.0)
