"""TrAdaBoost: boosting that learns which source rows to forget."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.reweighting import tradaboost, tradaboost_init, tradaboost_update

RNG = np.random.default_rng(0)


def oracle_update(of_source, of_target, wrong_source, wrong_target, rounds):
  error = np.sum(of_target * wrong_target) / np.sum(of_target)
  beta_t = np.clip(error, 1e-3, 0.5)
  beta_t = beta_t / (1 - beta_t)
  beta = 1 / (1 + np.sqrt(2 * np.log(len(of_source)) / rounds))
  of_source = of_source * beta**wrong_source
  of_target = of_target * beta_t**-wrong_target
  whole = of_source.sum() + of_target.sum()
  return of_source / whole, of_target / whole, error, -np.log(beta_t)


def test_tradaboost_update_equals_the_paper():
  run = jax.jit(tradaboost_update)
  for rounds, wrong in ((10.0, 0.3), (50.0, 0.0), (5.0, 0.8)):
    of_source, of_target = RNG.uniform(size=20), RNG.uniform(size=8)
    wrong_source = (RNG.uniform(size=20) < 0.4) * 1.0
    wrong_target = (np.arange(8) < 8 * wrong) * 1.0
    expected = oracle_update(
      of_source, of_target, wrong_source, wrong_target, rounds
    )
    with jax.enable_x64(True):
      state = tradaboost_init(20, 8)._replace(
        source_weights=of_source, target_weights=of_target
      )
      update = run(state, wrong_source, wrong_target, num_rounds=rounds)
    for got, want in zip(update, expected, strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-12)


def test_tradaboost_equals_a_loop():
  """With a decision stump on one feature as the learner, in NumPy too."""
  rng = np.random.default_rng(3)
  source, target = rng.normal(size=(40, 1)), rng.normal(size=(12, 1))
  of_source = (source[:, 0] > 0.8).astype(int)  # wrong between 0 and 0.8
  of_target = (target[:, 0] > 0).astype(int)
  queries = rng.normal(size=(30, 1))
  cuts = np.linspace(-2, 2, 41)

  def learner(rows, one_hot, weights, queries):
    above = rows[:, 0][None] > cuts[:, None]
    wrong = jnp.where(above, one_hot[:, 0][None], one_hot[:, 1][None])
    cut = jnp.asarray(cuts)[jnp.argmin(jnp.round(wrong @ weights, 6))]
    return jax.nn.one_hot(jnp.int32(queries[:, 0] > cut), 2, dtype=rows.dtype)

  with jax.enable_x64(True):
    result = jax.jit(
      functools.partial(
        tradaboost, learner=learner, num_classes=2, num_rounds=9
      )
    )(source, target, jnp.asarray(of_source), jnp.asarray(of_target), queries)

  rows = np.concatenate([source, target])
  labels = np.eye(2)[np.concatenate([of_source, of_target])]
  w_source, w_target = np.full(40, 1 / 52), np.full(12, 1 / 52)
  votes, predictions = [], []
  for index in range(9):
    np.testing.assert_allclose(result.source_weights[index], w_source, 1e-9)
    np.testing.assert_allclose(result.target_weights[index], w_target, 1e-9)
    weights = np.concatenate([w_source, w_target])
    wrong = np.where(rows[:, 0] > cuts[:, None], labels[:, 0], labels[:, 1])
    # As the learner: ties go to the first cut, whatever the rounding.
    cut = cuts[np.argmin(np.round(wrong @ (weights * 52), 6))]
    said = np.eye(2)[(rows[:, 0] > cut).astype(int)]
    errors = np.abs(said - labels).sum(1) / 2
    w_source, w_target, error, vote = oracle_update(
      w_source, w_target, errors[:40], errors[40:], 9
    )
    np.testing.assert_allclose(result.target_errors[index], error, atol=1e-12)
    votes.append(vote)
    predictions.append(np.eye(2)[(queries[:, 0] > cut).astype(int)])
  votes = np.array(votes[4:]) / np.sum(votes[4:])
  expected = np.tensordot(votes, np.array(predictions[4:]), 1)
  np.testing.assert_allclose(result.scores, expected, atol=1e-9)
  truth = (queries[:, 0] > 0).astype(int)
  alone = np.mean((queries[:, 0] > 0.8) == truth)
  assert np.mean(np.argmax(result.scores, 1) == truth) > alone


def test_tradaboost_forgets_and_stays_finite():
  ones = np.ones(4, np.float32)
  run = jax.jit(tradaboost_update)
  state = tradaboost_init(4, 4)
  update = run(state, ones * 0, ones, num_rounds=3)  # all target wrong
  np.testing.assert_allclose(update.vote, 0, atol=1e-6)
  np.testing.assert_allclose(np.sum(update.source_weights), 0.5, rtol=1e-6)
  for zeros in (0 * ones, ones):
    nothing = jax.tree.map(jnp.zeros_like, state)
    update = run(nothing, zeros, zeros, num_rounds=3)
    assert all(np.all(np.isfinite(x)) for x in update)
  single = run(tradaboost_init(1, 1), ones[:1], ones[:1], num_rounds=3)
  np.testing.assert_allclose(single.source_weights, 0.5, rtol=1e-6)
