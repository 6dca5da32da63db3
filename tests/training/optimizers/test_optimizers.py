"""Optax whole: extra arguments, and mini-steps that count what they saw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.nets import Outputs
from kdjax.training import (
  Model,
  TrainState,
  Variables,
  distill,
  make_train_step,
  mean_metrics,
  parallelize,
  sweep,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# Twelve examples of which four mini-steps of three have 3, 1, 0 and 2.
BATCH = {
  "x": jnp.asarray(RNG.normal(size=(12, 4)), jnp.float32),
  "label": jnp.asarray(RNG.integers(0, 3, 12)),
  "mask": jnp.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1], bool),
}


def linear(variables, x, *, train, key):
  return Outputs(x @ variables.params, {}, None), variables.state


STUDENT = Model(linear, Variables(jnp.asarray(RNG.normal(size=(4, 3))), {}))


def supervised(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def learner_with(optimizer):
  return distill(STUDENT, None, supervised, optimizer, on="x")


def run(learner, steps, batch=BATCH):
  state, losses = learner.init(KEY, batch), []
  step = jax.jit(learner.step)
  for _ in range(steps):
    state, metrics = step(state, {}, batch, KEY)
    losses.append(float(mean_metrics(metrics)["loss"]))
  return state, losses


@pytest.mark.parametrize(
  "optimizer",
  [
    optax.lbfgs(),
    optax.polyak_sgd(),
    pytest.param(
      optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=5),
      ),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_they_get_the_value_and_its_function(optimizer):
  _, losses = run(learner_with(optimizer), 6)
  assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_lbfgs_takes_the_steps_of_optax_by_hand():
  """The value is the masked loss of the batch, and its function too."""
  optimizer = optax.lbfgs()
  state, _ = run(learner_with(optimizer), 3)
  kept = BATCH["mask"]

  def loss(weights):
    values = supervised(BATCH["x"] @ weights, BATCH["label"])
    return jnp.sum(values * kept) / 6

  @jax.jit
  def step(weights, own):
    value, slope = optax.value_and_grad_from_state(loss)(weights, state=own)
    updates, own = optimizer.update(
      slope, own, weights, value=value, grad=slope, value_fn=loss
    )
    return optax.apply_updates(weights, updates), own

  weights = STUDENT.variables.params
  own = optimizer.init(weights)
  for _ in range(3):
    weights, own = step(weights, own)
  np.testing.assert_allclose(
    state.params["student"], weights, rtol=1e-3, atol=1e-3
  )


def test_a_plateau_lowers_the_rate():
  """`reduce_on_plateau` sees the loss of each step."""
  plateau = optax.contrib.reduce_on_plateau(
    factor=0.5, patience=2, accumulation_size=1
  )
  # A rate of 0 never improves.
  state, losses = run(learner_with(optax.chain(optax.sgd(0.0), plateau)), 5)
  assert losses[0] == losses[-1]
  assert optax.tree.get(state.optimizer_state, "scale") < 1
  state, _ = run(learner_with(optax.chain(optax.sgd(0.1), plateau)), 5)
  assert optax.tree.get(state.optimizer_state, "scale") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_extra_arguments_are_those_of_all_devices(mode):
  learner = learner_with(optax.lbfgs())
  state = learner.init(KEY, BATCH)
  expected, _ = jax.jit(learner.step)(state, {}, BATCH, KEY)
  step = parallelize(learner, mode, devices=jax.devices()[:2]).step
  moved, _ = step(state, {}, BATCH, KEY)
  np.testing.assert_allclose(
    moved.params["student"], expected.params["student"], rtol=1e-4, atol=1e-5
  )


def steps_of(optimizer, every=4):
  return optax.MultiSteps(optimizer, every)


MINI_STEPS = {
  "MultiSteps": steps_of,
  "its transformation": lambda optimizer: steps_of(
    optimizer
  ).gradient_transformation(),
}


def pieces():
  return jax.tree.map(lambda x: x.reshape(4, 3, *x.shape[1:]), BATCH)


def accumulated(learner, step=None, **options):
  """The state after each mini-step."""
  step = jax.jit(learner.step) if step is None else step
  state = learner.init(KEY, jax.tree.map(lambda x: x[0], pieces()))
  states = []
  for i in range(4):
    part = jax.tree.map(lambda x, i=i: x[i], pieces())
    state, _ = step(state, {}, part, KEY)
    states.append(state)
  return states


@pytest.mark.parametrize("make", MINI_STEPS.values(), ids=MINI_STEPS)
@pytest.mark.parametrize(
  "optimizer",
  [optax.sgd(0.5), pytest.param(optax.adam(0.1), marks=pytest.mark.slow)],
)
def test_mini_steps_of_unequal_counts_are_one_step_of_the_batch(
  make, optimizer
):
  expected, _ = run(learner_with(optimizer), 1)
  states = accumulated(learner_with(make(optimizer)))
  for state in states[:3]:
    np.testing.assert_array_equal(
      state.params["student"], STUDENT.variables.params
    )
  np.testing.assert_allclose(
    states[-1].params["student"],
    expected.params["student"],
    rtol=1e-5,
    atol=1e-6,
  )
  # The mean of means is another one: the test would see it.
  plain = learner_with(optimizer)
  part = jax.tree.map(lambda x: x[0], pieces())
  other = jax.jit(plain.step)(plain.init(KEY, part), {}, part, KEY)[0]
  gap = other.params["student"] - expected.params["student"]
  assert np.abs(gap).max() > 1e-2


def test_the_next_update_starts_anew():
  """Two updates of four mini-steps, as two steps of the batch."""
  expected, _ = run(learner_with(optax.sgd(0.5)), 2)
  learner = learner_with(steps_of(optax.sgd(0.5)))
  step = jax.jit(learner.step)
  state = accumulated(learner, step)[-1]
  for i in range(4):
    part = jax.tree.map(lambda x, i=i: x[i], pieces())
    state, _ = step(state, {}, part, KEY)
  np.testing.assert_allclose(
    state.params["student"],
    expected.params["student"],
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.slow
def test_a_skipped_mini_step_does_not_count():
  learner = learner_with(
    optax.MultiSteps(
      optax.sgd(0.5), 2, should_skip_update_fn=optax.skip_not_finite
    )
  )
  whole = jax.tree.map(lambda x: x[:6], BATCH)
  expected, _ = run(learner_with(optax.sgd(0.5)), 1, whole)
  parts = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), whole)
  first, second = (jax.tree.map(lambda x, i=i: x[i], parts) for i in range(2))
  state = learner.init(KEY, first)
  step = jax.jit(learner.step)
  for part in (first, first | {"x": first["x"] * jnp.nan}, second):
    state, _ = step(state, {}, part, KEY)
  np.testing.assert_allclose(
    state.params["student"],
    expected.params["student"],
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  "mode", [pytest.param("pmap", marks=pytest.mark.slow), "shard_map"]
)
def test_mini_steps_count_over_all_devices(mode):
  """Three devices: each mini-step has an example on each, or none."""
  expected, _ = run(learner_with(optax.sgd(0.5)), 1)
  learner = learner_with(steps_of(optax.sgd(0.5)))
  step = parallelize(learner, mode, devices=jax.devices()[:3]).step
  state = accumulated(learner, step)[-1]
  np.testing.assert_allclose(
    state.params["student"],
    expected.params["student"],
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.slow
def test_mini_steps_of_many_students():
  expected, _ = run(learner_with(optax.sgd(0.5)), 1)
  learner = sweep(learner_with(steps_of(optax.sgd(0.5))))
  keys = jax.random.split(KEY, 2)
  part = jax.tree.map(lambda x: x[0], pieces())
  states, step = learner.init(keys, part), jax.jit(learner.step)
  for i in range(4):
    part = jax.tree.map(lambda x, i=i: x[i], pieces())
    states, _ = step(states, {}, part, keys)
  for row in states.params["student"]:
    np.testing.assert_allclose(
      row, expected.params["student"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_a_sum_over_mini_steps_is_left_alone():
  """The user's own choice: gradients are added, whatever they count."""
  learner = learner_with(
    optax.MultiSteps(optax.sgd(0.5), 4, use_grad_mean=False)
  )
  state = accumulated(learner)[-1]

  def gradient(part):
    def loss(weights):
      values = supervised(part["x"] @ weights, part["label"])
      return jnp.sum(values * part["mask"]) / jnp.maximum(part["mask"].sum(), 1)

    return jax.grad(loss)(STUDENT.variables.params)

  total = jax.vmap(gradient)(pieces()).sum(0)
  np.testing.assert_allclose(
    state.params["student"],
    STUDENT.variables.params - 0.5 * total,
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.slow
def test_mini_steps_inside_a_chain_are_refused():
  """There they would be averaged without a word."""
  optimizer = optax.chain(
    optax.clip(1.0), steps_of(optax.sgd(0.5)).gradient_transformation()
  )
  learner = learner_with(optimizer)
  state = learner.init(KEY, BATCH)
  with pytest.raises(
    ValueError, match=r"has optax\.MultiSteps inside; expected it around all"
  ):
    learner.step(state, {}, BATCH, KEY)
  around = steps_of(optax.chain(optax.clip(1.0), optax.sgd(0.5)))
  assert int(accumulated(learner_with(around))[-1].step) == 4


@pytest.mark.slow
def test_a_state_by_hand_does_not_count():
  optimizer = steps_of(optax.sgd(0.5))
  learner = learner_with(optimizer)
  params = {"student": STUDENT.variables.params, "objective": {}}
  state = TrainState(
    jnp.array(0),
    params,
    {"student": {}, "objective": {}},
    optimizer.init(params),
  )
  step = make_train_step(learner.loss_fn, optimizer)
  with pytest.raises(
    ValueError, match=r"state is a MultiStepsState; expected that of a learn"
  ):
    step(state, {}, BATCH, KEY)


def test_hyperparameters_can_be_injected_into_what_takes_extra_arguments():
  optimizer = optax.inject_hyperparams(optax.polyak_sgd)(scaling=1.0)
  state, losses = run(learner_with(optimizer), 4)
  assert losses[-1] < losses[0]
  state = optax.tree.set(state, scaling=jnp.float32(0.0))
  step = jax.jit(functools.partial(learner_with(optimizer).step))
  moved, _ = step(state, {}, BATCH, KEY)
  np.testing.assert_array_equal(
    moved.params["student"], state.params["student"]
  )
