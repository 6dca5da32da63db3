"""Weights by discriminators, predictions and boosting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.adaptation import bbse_weights
from kdjax.adaptation import discriminator_weights
from kdjax.adaptation import iwan_weights
from kdjax.adaptation import pada_class_weights
from kdjax.adaptation import tradaboost
from kdjax.adaptation import tradaboost_update
from tests.laws import trace

PADA = jax.jit(pada_class_weights)
IWAN = jax.jit(iwan_weights)
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 4))
LABELS = np.arange(16) % 4
MASK = np.arange(16) % 5 != 1


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def test_discriminator_takes_logits_too():
  logits = LOGITS[:, 0]
  expected = 1 / (1 / (1 + np.exp(-logits))) - 1  # 1 / D - 1
  run = jax.jit(discriminator_weights)
  weights = run(np.float32(logits), np.zeros(3, np.float32))
  np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)
  for z in (1e4 * logits, 0 * logits + 1e4, 0 * logits - 1e4):
    weights = run(np.float32(z))
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-5)
  masked = run(np.float32(logits), where_source=MASK)
  ratios = np.where(MASK, np.exp(-logits), 0)
  np.testing.assert_allclose(masked, ratios / ratios[MASK].mean(), 1e-5)
  bare = jax.jit(functools.partial(discriminator_weights, normalize=False))
  np.testing.assert_allclose(
    bare(np.float32(logits), where_source=MASK), ratios, rtol=1e-5
  )
  nothing = run(np.float32(logits), where_source=np.zeros(16, bool))
  np.testing.assert_array_equal(nothing, 0)


def test_iwan_equals_the_published_formula():
  logits = LOGITS[:, 0]
  raw = 1 - 1 / (1 + np.exp(-logits))
  for eps in (1e-5, 0.3):
    with jax.enable_x64(True):
      weights = IWAN(logits[:, None], eps=eps)
      masked = IWAN(
        np.where(MASK, logits, np.nan)[:, None], eps=eps, where=MASK
      )
    np.testing.assert_allclose(weights, raw / (raw.mean() + eps), rtol=1e-12)
    expected = np.where(MASK, raw / (raw[MASK].mean() + eps), 0)
    np.testing.assert_allclose(masked, expected, rtol=1e-12)
  sure = np.full(16, 1e4, np.float32)
  np.testing.assert_array_equal(IWAN(sure[:, None], eps=1e-5), 0)
  np.testing.assert_allclose(IWAN(sure[:, None], eps=0.0), 1)
  nothing = IWAN(np.float32(logits)[:, None], eps=1e-5, where=0 * MASK > 0)
  np.testing.assert_array_equal(nothing, 0)


def test_pada_equals_the_published_formula():
  for temperature in (0.1, 1.0, 2.0):
    mean = softmax(LOGITS / temperature).mean(0)
    with jax.enable_x64(True):
      classes = PADA(LOGITS, temperature=temperature)
      rows = PADA(LOGITS, jnp.asarray(LABELS[:6]), temperature=temperature)
    np.testing.assert_allclose(classes, mean / mean.max(), rtol=1e-10)
    expected = mean[LABELS[:6]]
    np.testing.assert_allclose(rows, expected / expected.mean(), rtol=1e-10)
  wild = np.where(np.arange(4) == 2, -np.inf, 1e4 * LOGITS)
  classes = PADA(np.float32(wild), temperature=0.1)
  assert np.all(np.isfinite(classes))
  assert classes[2] == 0
  where = np.zeros(16, bool)
  nothing = PADA(np.float32(LOGITS), temperature=0.1, where_target=where)
  np.testing.assert_array_equal(nothing, 1)


def shifted(n, prior, seed):
  """Labels of a prior, and what a noisy classifier says of them."""
  rng = np.random.default_rng(seed)
  labels = rng.choice(3, n, p=prior)
  return labels, 2 * np.eye(3)[labels] + rng.normal(size=(n, 3))


@pytest.mark.parametrize("soft", [False, True])
def test_bbse_equals_numpy(soft):
  labels, source = shifted(200, [0.4, 0.3, 0.3], 0)
  _, target = shifted(150, [0.2, 0.6, 0.2], 1)
  rows = (
    softmax(x) if soft else np.eye(3)[x.argmax(1)] for x in (source, target)
  )
  of_source, of_target = rows
  joint = of_source.T @ np.eye(3)[labels] / 200
  form = jax.jit(functools.partial(bbse_weights, soft=soft))
  for ridge in (0.0, 0.02):
    gram = joint.T @ joint + ridge * np.eye(3)
    ratio = np.linalg.solve(gram, joint.T @ of_target.mean(0) + ridge)
    expected = np.maximum(ratio, 0)[labels]
    with jax.enable_x64(True):
      weights = form(source, target, jnp.asarray(labels), ridge=ridge)
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-9)
    if not ridge:
      np.testing.assert_allclose(expected.mean(), 1, rtol=1e-12)


def test_bbse_recovers_the_shift_and_survives_a_silent_class():
  labels, source = shifted(4000, [0.4, 0.3, 0.3], 0)
  _, target = shifted(4000, [0.2, 0.6, 0.2], 1)
  run = jax.jit(bbse_weights)
  source, target = np.float32(source), np.float32(target)
  weights = np.asarray(run(source, target, labels))
  classes = [weights[np.argmax(labels == c)] for c in range(3)]
  np.testing.assert_allclose(classes, [0.5, 2.0, 2 / 3], atol=0.15)
  never = np.where(np.arange(3) == 1, -np.inf, 1.0).astype(np.float32)
  weights = run(source + never, target + never, labels)
  assert np.all(np.isfinite(weights))
  np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-3)
  nothing = run(source, target, labels, where_target=np.zeros(4000, bool))
  np.testing.assert_allclose(nothing, 1)


def test_no_gradient_and_half_precision():
  logits = jnp.asarray(LOGITS, jnp.bfloat16)
  labels = jnp.asarray(LABELS)
  forms = (
    pada_class_weights,
    lambda x: pada_class_weights(x, labels),
    lambda x: iwan_weights(x[:, 0]),
    lambda x: discriminator_weights(x[:, 0]),
    lambda x: bbse_weights(x, x[::-1], labels, soft=True),
  )

  @jax.jit
  def run(x):
    return [
      (form(x), jax.grad(lambda x, f=form: jnp.sum(jnp.square(f(x))))(x))
      for form in forms
    ]

  for (half, gradient), (wide, _) in zip(
    run(logits), run(np.float32(logits)), strict=True
  ):
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, wide, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.float32(gradient), 0)


def test_devices_agree():
  def run(logits, labels, where, axis_name=None):
    masks = {"where_source": where, "axis_name": axis_name}
    both = {"where_target": where, **masks}
    return (
      pada_class_weights(logits, labels, **both),
      iwan_weights(logits[:, 0], where=where, axis_name=axis_name),
      discriminator_weights(logits[:, 0], **masks),
      bbse_weights(logits, logits[::-1], labels, soft=True, ridge=0.1, **both),
    )

  arguments = (
    np.float32(np.tile(LOGITS[:1], (16, 1)) + LOGITS / 9),
    LABELS,
    MASK,
  )
  whole = jax.jit(run)(*arguments)
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    functools.partial(run, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P("batch"),
  )
  # Each device reverses its own rows, which leaves sums over rows alone.
  swapped = arguments[0], LABELS, np.ones(16, bool)
  for got, want in zip(
    jax.jit(sharded)(*swapped), jax.jit(run)(*swapped), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  for got, want in zip(
    jax.jit(sharded)(*arguments)[:3], whole[:3], strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


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
      update = run(
        of_source, of_target, wrong_source, wrong_target, num_rounds=rounds
      )
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
  update = run(ones, ones, ones * 0, ones, num_rounds=3)  # all target wrong
  np.testing.assert_allclose(update.vote, 0, atol=1e-6)
  np.testing.assert_allclose(np.sum(update.source_weights), 0.5, rtol=1e-6)
  for zeros in (0 * ones, ones):
    update = run(0 * ones, zeros * 0, zeros, zeros, num_rounds=3)
    assert all(np.all(np.isfinite(x)) for x in update)
  single = run(ones[:1], ones[:1], ones[:1], ones[:1], num_rounds=3)
  np.testing.assert_allclose(single.source_weights, 0.5, rtol=1e-6)


def test_errors_name_the_argument():
  logits, labels, ones = np.float32(LOGITS), LABELS, np.ones(4, np.float32)
  with pytest.raises(ValueError, match=r"temperature is 0.0"):
    trace(pada_class_weights, logits, temperature=0.0)
  with pytest.raises(ValueError, match=r"eps is -1.0"):
    trace(iwan_weights, logits[:, 0], eps=-1.0)
  with pytest.raises(ValueError, match=r"target_logits has shape \(16, 3\)"):
    trace(bbse_weights, logits, logits[:, :3], labels)
  with pytest.raises(ValueError, match=r"ridge is -0.1"):
    trace(bbse_weights, logits, logits, labels, ridge=-0.1)
  with pytest.raises(ValueError, match=r"source_errors has shape \(3,\)"):
    trace(tradaboost_update, ones, ones, ones[:3], ones, num_rounds=3)
  with pytest.raises(ValueError, match="num_rounds is 0"):
    trace(
      tradaboost, logits, logits, labels, labels, logits,
      learner=lambda rows, y, w, q: q, num_classes=4, num_rounds=0,
    )  # fmt: skip
