"""A sweep against the loop over its students."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.distillation import soft_target_loss
from kdjax.methods import combine, parameter_ema, stateless
from kdjax.nets import MLP
from kdjax.training import (
  Model,
  Network,
  distill,
  epoch_plan,
  grid,
  scan_epoch,
  sweep,
)

SHAPE, EXAMPLES = (3, 3, 1), 22


def network(width, dropout=0.0):
  return Network.of(
    lambda rngs: MLP(
      3, input_shape=SHAPE, hidden=(width,), dropout=dropout, rngs=rngs
    )
  )


def supervised(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


BATCH = {
  "image": jax.ShapeDtypeStruct((8, *SHAPE), jnp.float32),
  "label": jax.ShapeDtypeStruct((8,), jnp.int32),
  "mask": jax.ShapeDtypeStruct((8,), jnp.bool_),
}
DATA = {
  "image": jax.random.normal(jax.random.key(1), (EXAMPLES, *SHAPE)),
  "label": jnp.arange(EXAMPLES) % 3,
}


@functools.cache
def learner_of_all():
  """One program for all students, whatever their hyper-parameters."""
  teacher = network(7)
  variables = jax.jit(teacher.init)(jax.random.key(100))
  objective = combine(
    {
      "ce": (0.5, stateless(supervised)),
      "kd": (0.5, stateless(soft_target_loss, temperature=2.0)),
    }
  )
  optimizer = optax.chain(
    optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    parameter_ema(0.9),
  )
  return distill(
    network(4, dropout=0.2),
    Model(teacher.forward, variables),
    objective,
    optimizer,
  )


def start(point):
  """A student with its own seed and hyper-parameters, traced or not."""
  state = learner_of_all().init(
    jax.random.key(point["seed"]),
    BATCH,
    temperature=point["temperature"],
    ce=1 - point["weight"],
    kd=point["weight"],
  )
  return optax.tree.set(state, learning_rate=point["learning_rate"])


def points_of_four():
  points = grid(seed=(0, 1), temperature=(1.0, 4.0))
  points["weight"] = jnp.array([0.1, 0.5, 0.9, 1.0])
  points["learning_rate"] = jnp.array([1e-3, 1e-2, 3e-2, 1e-1])
  return points


def assert_rows_equal(swept, single, i):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=2e-6),
    swept,
    single,
  )


@pytest.mark.slow
def test_sweep_equals_the_loop_over_students():
  points, frozen = points_of_four(), learner_of_all().frozen
  init = jax.jit(start)
  states = jax.jit(jax.vmap(start))(points)
  keys = jax.vmap(jax.random.key)(points["seed"])
  plans = jax.vmap(lambda key: epoch_plan(EXAMPLES, 8, key=key))(keys)
  epoch = scan_epoch(learner_of_all().step)
  swept = jax.jit(sweep(epoch))(states, frozen, DATA, plans, keys)
  single = jax.jit(chex.assert_max_traces(epoch, n=1))
  for i in range(4):
    state = init({k: v[i] for k, v in points.items()})
    plan = jax.tree.map(lambda x, i=i: x[i], plans)
    assert_rows_equal(swept, single(state, frozen, DATA, plan, keys[i]), i)
  assert swept[1]["loss"][0].shape == (4, 3)


@pytest.mark.slow
def test_a_swept_learner_equals_the_loop():
  """Its three functions are those of many students."""
  learner = learner_of_all()
  swept = sweep(learner)
  keys = jax.random.split(jax.random.key(5), 2)
  hyper = {"temperature": jnp.array([1.0, 4.0]), "kd": jnp.array([0.3, 0.7])}
  batch = {k: v[:8] for k, v in DATA.items()} | {"mask": jnp.arange(8) < 6}
  assert swept.frozen is learner.frozen

  def run(learner, keys, hyper):
    states = learner.init(keys, batch, **hyper)
    states, metrics = learner.step(states, learner.frozen, batch, keys)
    return states, metrics, learner.evaluate(states, learner.frozen, batch)

  many = jax.jit(functools.partial(run, swept))(keys, hyper)
  assert many[0].state["objective"]["weights"]["kd"].tolist() == [
    np.float32(0.3),
    np.float32(0.7),
  ]
  one = jax.jit(functools.partial(run, learner))
  for i in range(2):
    own = {k: v[i] for k, v in hyper.items()}
    assert_rows_equal(many, one(keys[i], own), i)
  # The students differ from the first step on.
  kernels = [x for x in jax.tree.leaves(many[0].params) if x.ndim == 3]
  assert all(np.all(x[0] != x[1]) for x in kernels)


def test_shared_arguments_have_no_axis_of_students():
  def step(state, frozen, batch, key):
    return state + frozen * batch, key

  states, keys = jnp.arange(3.0), jnp.arange(3)
  moved, seen = sweep(step)(states, 2.0, 1.0, keys)
  np.testing.assert_array_equal(moved, states + 2)
  np.testing.assert_array_equal(seen, keys)
  moved, _ = sweep(step, shared=("frozen", "key"))(states, 2.0, states, 0)
  np.testing.assert_array_equal(moved, 3 * states)


def test_students_computed_some_at_a_time_are_the_same():
  def step(state, frozen, batch, key):
    return {"state": state * frozen + batch["x"] @ state}, key

  states, x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
  args = states, 2.0, {"x": x[0]}, jnp.arange(3)
  whole, *parts = jax.jit(
    lambda *args: [
      sweep(step, chunk_size=size)(*args) for size in (None, 1, 2, 3, 5)
    ]
  )(*args)
  for part in parts:
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      part,
      whole,
    )
  one_by_one = str(jax.make_jaxpr(sweep(step, chunk_size=1))(*args))
  assert "f32[4,4] = dot_general" in one_by_one
  with pytest.raises(ValueError, match="chunk_size is 0; expected an integer"):
    sweep(step, chunk_size=0)


def test_grid_has_all_combinations():
  points = grid(seed=range(2), temperature=(1.0, 2.0, 4.0), weight=(0.5,))
  assert {k: v.shape for k, v in points.items()} == dict.fromkeys(points, (6,))
  assert len(set(zip(*(v.tolist() for v in points.values()), strict=True))) == 6
  assert points["seed"].dtype == jnp.int32


def test_a_grid_without_values_is_refused():
  with pytest.raises(ValueError, match=r"seed is \(\); expected at least one"):
    grid(temperature=(1.0,), seed=())
