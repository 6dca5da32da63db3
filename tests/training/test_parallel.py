"""The same steps under jit, sharded jit, pmap and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import select_logits
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.ops import kl_divergence
from kdjax.ops import masked_mean
from kdjax.training import TrainState
from kdjax.training import distillation_loss
from kdjax.training import epoch_plan
from kdjax.training import from_nnx
from kdjax.training import init_train_state
from kdjax.training import make_eval_step
from kdjax.training import make_train_step
from kdjax.training import parallelize
from kdjax.training import scan_epoch
from kdjax.training import scan_evaluation
from kdjax.training import sweep

CLASSES, PIXELS, BATCH, STEPS = 3, 10, 32, 3


class Network(nnx.Module):
  def __init__(self, width, *, axis_name=None, rngs):
    # A bias before BatchNorm has no gradient: Adam would blow up its rounding.
    self.layer = nnx.Linear(PIXELS, width, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(width, axis_name=axis_name, rngs=rngs)
    self.head = nnx.Linear(width, CLASSES, rngs=rngs)

  def __call__(self, x):
    embedding = nnx.relu(self.norm(self.layer(x)))
    return Outputs(self.head(embedding), {}, embedding)


def projected_mse(axis_name=None):
  """A learnable objective: the student's embedding in the teacher's width."""

  def init(key, student, teacher):
    shape = student.embedding.shape[-1], teacher.embedding.shape[-1]
    return jax.random.normal(key, shape), {}

  def apply(params, state, student, teacher, batch, key):
    error = (student.embedding @ params - teacher.embedding) ** 2
    loss = masked_mean(jnp.mean(error, -1), batch["mask"], axis_name=axis_name)
    return loss, state, {}

  return Objective(init, apply)


def center_gap(student, teacher, *, where, axis_name):
  """A batch-coupled loss: the gap between mean logits."""
  gap = (student - teacher) * where[:, None]
  if axis_name is not None:
    gap = jax.lax.all_gather(gap, axis_name, tiled=True)
  return jnp.mean(jnp.sum(gap, axis=0) ** 2)


def networks(axis_name):
  """The student and the teacher, built in one program."""
  modules = nnx.jit(
    lambda: (
      Network(4, axis_name=axis_name, rngs=nnx.Rngs(0)),
      Network(6, rngs=nnx.Rngs(1)),
    )
  )()
  return map(from_nnx, modules)


@functools.cache
def make(axis_name, *, local_norm=False):
  norm_axis = None if local_norm else axis_name
  student, teacher = networks(norm_axis)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  lift = functools.partial(stateless, axis_name=axis_name)
  objective = combine(
    {
      "ce": (0.3, lift(cross_entropy, select_supervised)),
      "kd": (
        optax.linear_schedule(0.5, 1.0, STEPS),
        lift(kl_divergence, temperature=4.0),
      ),
      "hint": (2.0, projected_mse(axis_name)),
      "center": (0.01, lift(center_gap)),
    }
  )
  optimizer = optax.adam(1e-2)
  state = init_train_state(
    jax.random.key(2),
    student,
    objective,
    optimizer,
    jax.ShapeDtypeStruct((BATCH, PIXELS), jnp.float32),
    teacher=teacher,
  )
  loss_fn = distillation_loss(
    student.forward, objective, teacher.forward, axis_name=axis_name
  )
  step = make_train_step(loss_fn, optimizer, axis_name=axis_name)
  evaluate = make_eval_step(
    student.forward,
    {"kl": (kl_divergence, select_logits)},
    teacher.forward,
    axis_name=axis_name,
  )
  return state, {"teacher": teacher.variables}, step, evaluate


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
  state, frozen, step, evaluate = make(None)
  step, history = jax.jit(step), []
  for i in range(STEPS):
    rows = jax.tree.map(lambda x, i=i: x[i], PLAN)
    batch = {k: x[rows["index"]] for k, x in DATA.items()} | rows
    state, metrics = step(state, frozen, batch, KEY)
    history.append(metrics)
  assert not np.all(batch["mask"])
  history = jax.tree.map(lambda *x: np.stack(x), *history)
  evaluation = jax.jit(scan_evaluation(evaluate))(
    state.student, frozen, DATA, PLAN
  )
  return jax.tree.map(np.asarray, (state, history, evaluation))


@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_steps_give_the_same_parameters_on_eight_devices(mode, reference):
  expected, history, _ = reference
  state, frozen, step, _ = make(None if mode == "jit" else "batch")
  step = parallelize(step, mode)
  for i in range(STEPS):
    rows = jax.tree.map(lambda x, i=i: x[i], PLAN)
    batch = {k: np.asarray(x[rows["index"]]) for k, x in DATA.items()} | rows
    state, metrics = step(state, frozen, batch, KEY)
    assert_trees_close(
      metrics, jax.tree.map(lambda x, i=i: x[i], history), 1e-5
    )
  assert isinstance(state, TrainState)
  assert len(state.step.sharding.device_set) == 8
  assert_trees_close(state, expected)


@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_epoch_and_evaluation_equal_the_loop_on_eight_devices(mode, reference):
  expected, history, evaluation = reference
  state, frozen, step, evaluate = make(None if mode == "jit" else "batch")
  epoch = parallelize(scan_epoch(step), mode)
  state, metrics = epoch(state, frozen, DATA, PLAN, KEY)
  assert_trees_close(state, expected)
  assert_trees_close(metrics, history, 1e-5)
  evaluate = parallelize(scan_evaluation(evaluate), mode)
  totals = evaluate(state.student, frozen, DATA, PLAN)
  assert_trees_close(totals, evaluation, 1e-5)
  assert totals["kl"][1] == len(DATA["label"])


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_a_sweep_of_epochs_runs_on_eight_devices(mode, reference):
  expected, _, _ = reference
  state, frozen, step, _ = make(None if mode == "jit" else "batch")
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


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_local_batch_statistics_are_averaged_over_devices(mode):
  state, frozen, step, _ = make("batch", local_norm=True)
  batch = {k: x[:BATCH] for k, x in DATA.items()}
  batch["mask"] = np.ones(BATCH, bool)
  kernel = state.params["student"]["layer"]["kernel"]
  mean = 0.01 * np.mean(batch["image"] @ np.asarray(kernel), axis=0)
  state, _ = parallelize(step, mode)(state, frozen, batch, KEY)
  np.testing.assert_allclose(
    state.state["student"]["norm"]["mean"], mean, rtol=1e-4, atol=1e-7
  )


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


def test_dropout_differs_between_devices_and_not_between_steps_of_one_key():
  class Noise(nnx.Module):
    def __init__(self):
      self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
      self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
      return Outputs(self.dropout(x) * self.scale[...], {}, None)

  def apply(params, state, student, teacher, batch, key):
    seen = jax.lax.all_gather(student.logits, "batch", tiled=True)
    return jnp.mean(student.logits), jax.lax.pmean(seen, "batch"), {}

  student = from_nnx(Noise())
  objective = Objective(lambda *_: ({}, jnp.zeros((16, 50))), apply)
  state = init_train_state(
    KEY, student, objective, optax.sgd(0.0), jnp.ones((16, 50))
  )
  loss_fn = distillation_loss(student.forward, objective, axis_name="batch")
  step = make_train_step(loss_fn, optax.sgd(0.0), axis_name="batch")
  step = parallelize(step, "shard_map")
  batch = {"image": np.ones((16, 50), np.float32)}
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
