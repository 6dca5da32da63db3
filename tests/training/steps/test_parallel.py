"""The same steps under jit, sharded jit, pmap and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.distillation import soft_target_loss
from kdjax.methods import Objective, combine, stateless
from kdjax.nets import Outputs
from kdjax.ops import gather_batch, kl_divergence, masked_mean
from kdjax.training import (
  TrainState,
  distill,
  epoch_plan,
  from_nnx,
  generalize,
  parallelize,
  scan_epoch,
  scan_evaluation,
  sweep,
)

CLASSES, PIXELS, BATCH, STEPS = 3, 10, 32, 3
# The steps themselves are asked in all modes.
OTHERS_SLOW = [
  pytest.param("pmap", marks=pytest.mark.slow),
  pytest.param("jit", marks=pytest.mark.slow),
  "shard_map",
]


class Network(nnx.Module):
  def __init__(self, width, *, rngs):
    # A bias before BatchNorm has no gradient: Adam would blow up its rounding.
    self.layer = nnx.Linear(PIXELS, width, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, CLASSES, rngs=rngs)

  def __call__(self, x):
    embedding = nnx.relu(self.norm(self.layer(x)))
    return Outputs(self.head(embedding), {}, embedding)


def projected_mse():
  """A learnable objective: the student's embedding in the teacher's width."""

  def init(key, specs):
    student, teacher = (specs[k].embedding for k in ("student", "teacher"))
    return jax.random.normal(key, (student.shape[-1], teacher.shape[-1])), {}

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    student, teacher = (outputs[k].embedding for k in ("student", "teacher"))
    error = jnp.mean((student @ params - teacher) ** 2, -1)
    loss = masked_mean(error, batch["mask"], axis_name=axis_name)
    return loss, state, {}

  return Objective(init, apply)


def center_gap(student_logits, teacher_logits, *, where, axis_name):
  """A batch-coupled loss: the gap between mean logits."""
  gap = (student_logits - teacher_logits) * where[:, None]
  gap = gather_batch(gap, axis_name)
  return jnp.mean(jnp.sum(gap, axis=0) ** 2)


def supervised(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def divergence(student_logits, teacher_logits):
  return kl_divergence(student_logits, teacher_logits)


@functools.cache
def make():
  """A learner and its first state."""
  student, teacher = map(
    from_nnx,
    nnx.jit(
      lambda: (
        Network(4, rngs=nnx.Rngs(0)),
        Network(6, rngs=nnx.Rngs(1)),
      )
    )(),
  )
  ramp = optax.linear_schedule(0.5, 1.0, STEPS)
  objective = combine(
    {
      "ce": (0.3, stateless(supervised)),
      "kd": (ramp, stateless(soft_target_loss, temperature=4.0)),
      "hint": (2.0, projected_mse()),
      "center": (0.01, stateless(center_gap)),
    }
  )
  learner = distill(
    student,
    teacher,
    objective,
    optax.adam(1e-2),
    metrics={"kl": divergence},
  )
  specs = {
    "image": jax.ShapeDtypeStruct((BATCH, PIXELS), jnp.float32),
    "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    "mask": jax.ShapeDtypeStruct((BATCH,), jnp.bool_),
  }
  state = jax.jit(lambda key: learner.init(key, specs))(jax.random.key(2))
  return learner, state


def dataset(size):
  generator = np.random.default_rng(0)
  return {
    "image": generator.normal(size=(size, PIXELS)).astype(np.float32),
    "label": generator.integers(0, CLASSES, size),
  }


# 2.3 batches: the last has 10 examples, 4 a device, so five devices of eight
# see only padding and one sees both.
DATA = dataset(2 * BATCH + 10)
PLAN = jax.device_get(epoch_plan(2 * BATCH + 10, BATCH, key=jax.random.key(3)))
KEY = jax.random.key(4)


def assert_trees_close(actual, expected, tolerance=2e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=tolerance),
    actual,
    expected,
  )


@pytest.fixture(scope="module")
def reference():
  """The steps one by one, on one device."""
  learner, state = make()
  frozen = learner.frozen
  step, history = jax.jit(learner.step), []
  for i in range(STEPS):
    rows = jax.tree.map(lambda x, i=i: x[i], PLAN)
    batch = {k: x[rows["index"]] for k, x in DATA.items()} | rows
    state, metrics = step(state, frozen, batch, KEY)
    history.append(metrics)
  assert not np.all(batch["mask"])
  history = jax.tree.map(lambda *x: np.stack(x), *history)
  evaluation = jax.jit(scan_evaluation(learner.evaluate))(
    state, frozen, DATA, PLAN
  )
  return jax.tree.map(np.asarray, (state, history, evaluation))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_steps_give_the_same_parameters_on_eight_devices(mode, reference):
  expected, history, _ = reference
  learner, state = make()
  step = parallelize(learner, mode).step
  for i in range(STEPS):
    rows = jax.tree.map(lambda x, i=i: x[i], PLAN)
    batch = {k: np.asarray(x[rows["index"]]) for k, x in DATA.items()} | rows
    state, metrics = step(state, learner.frozen, batch, KEY)
    assert_trees_close(
      metrics, jax.tree.map(lambda x, i=i: x[i], history), 1e-5
    )
  assert isinstance(state, TrainState)
  assert len(state.step.sharding.device_set) == 8
  assert_trees_close(state, expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", OTHERS_SLOW)
def test_epoch_and_evaluation_equal_the_loop_on_eight_devices(mode, reference):
  expected, history, evaluation = reference
  learner, state = make()
  epoch = parallelize(scan_epoch(learner.step), mode)
  state, metrics = epoch(state, learner.frozen, DATA, PLAN, KEY)
  assert_trees_close(state, expected)
  assert_trees_close(metrics, history, 1e-5)
  evaluate = parallelize(scan_evaluation(learner.evaluate), mode)
  totals = evaluate(state, learner.frozen, DATA, PLAN)
  assert_trees_close(totals, evaluation, 1e-5)
  assert totals["kl"][1] == len(DATA["label"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", OTHERS_SLOW[1:])
def test_a_sweep_of_epochs_runs_on_eight_devices(mode, reference):
  expected, _, _ = reference
  learner, state = make()
  frozen, step = learner.frozen, learner.step
  states = jax.tree.map(lambda x: np.stack([x, x]), state)
  states = optax.tree.set(states, temperature=jnp.array([4.0, 1.0]))
  keys = jnp.stack([KEY, KEY])
  swept = sweep(scan_epoch(step), shared=("frozen", "data", "plan"))
  shared, metrics = parallelize(swept, mode)(states, frozen, DATA, PLAN, keys)
  assert_trees_close(jax.tree.map(lambda x: x[0], shared), expected)
  first, second = metrics["kd/loss"][0]
  assert np.all(first != second)
  if mode != "shard_map":
    return  # one more program that differs in its in_axes only
  plans = jax.tree.map(lambda x: np.stack([x, x]), PLAN)
  own = parallelize(sweep(scan_epoch(step)), mode, split={"plan": 2})
  assert_trees_close(own(states, frozen, DATA, plans, keys)[0], shared)


@pytest.mark.slow
def test_the_batch_of_several_domains_is_split_within_each():
  """By the learner and by its step alone: a loss compares the domains."""

  def spread(student_logits, labels, *, where, axis_name):
    values = supervised(student_logits, labels)
    risks = [
      masked_mean(v, w, axis_name=axis_name)
      for v, w in zip(values, where, strict=True)
    ]
    return jnp.var(jnp.stack(risks))

  linear = from_nnx(nnx.Linear(PIXELS, CLASSES, rngs=nnx.Rngs(0)))
  learner = generalize(linear, spread, optax.sgd(1.0))
  images = DATA["image"][:BATCH].reshape(2, -1, PIXELS)
  batch = {
    "image": images,
    "label": DATA["label"][:BATCH].reshape(2, -1),
    "mask": np.stack([np.arange(16) < n for n in (16, 3)]),
  }
  state = learner.init(KEY, batch)
  expected = jax.jit(learner.step)(state, {}, batch, KEY)
  two = jax.devices()[:2]
  for step in (
    parallelize(learner, "shard_map", devices=two).step,
    parallelize(learner.step, "pmap", devices=two),
  ):
    assert_trees_close(step(state, {}, batch, KEY), expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_students_of_a_sweep_can_be_split_over_devices(mode):
  def step(state, frozen, batch, key):
    noise = jax.random.normal(key, batch.shape)
    return state + frozen * jnp.sum(batch + noise), {"x": (state, frozen)}

  keys = jax.random.split(KEY, 4)
  args = jnp.arange(4.0), 0.5, jnp.arange(3.0), keys
  split = parallelize(
    sweep(step),
    mode,
    split={"state": 0, "key": 0},
    join=0,
    devices=jax.devices()[:2],
  )
  actual = split(*args)
  assert_trees_close(actual, jax.jit(sweep(step))(*args))
  assert split(actual[0], *args[1:])[0].shape == (4,)


@pytest.mark.slow
def test_dropout_differs_between_devices_and_not_between_steps_of_one_key():
  class Noise(nnx.Module):
    def __init__(self):
      self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
      self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
      return Outputs(self.dropout(x) * self.scale[...], {}, None)

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    logits = outputs["student"].logits
    seen = gather_batch(logits, axis_name)
    if axis_name is not None:
      seen = jax.lax.pmean(seen, axis_name)
    return jnp.mean(logits), seen, {}

  objective = Objective(lambda *_: ({}, jnp.zeros((16, 50))), apply)
  learner = distill(Noise(), None, objective, optax.sgd(0.0))
  batch = {"image": np.ones((16, 50), np.float32), "mask": np.ones(16, bool)}
  state = learner.init(KEY, batch)
  step = parallelize(learner, "shard_map").step
  first, _ = step(state, {}, batch, KEY)
  second, _ = step(first, {}, batch, KEY)
  again, _ = step(state, {}, batch, KEY)
  masks = np.stack([s.state["objective"] for s in (first, second)]) > 0
  assert len(np.unique(masks.reshape(2 * 16, 50), axis=0)) == 2 * 16
  np.testing.assert_array_equal(
    first.state["objective"], again.state["objective"]
  )


def test_errors_name_what_is_wrong():
  def step(state, batch):
    return state

  with pytest.raises(ValueError, match=r"mode is 'xmap'"):
    parallelize(step, "xmap")
  with pytest.raises(ValueError, match=r"split is \{'data': 0\}"):
    parallelize(step, "jit", split={"data": 0})
  with pytest.raises(ValueError, match=r"batch has an array of shape \(12,\)"):
    parallelize(step, "pmap")(0, np.ones(12))
