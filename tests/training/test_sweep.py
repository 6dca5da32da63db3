"""A sweep against the loop over its students."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.nets import MLP
from kdjax.objectives import combine
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.ops import kl_divergence
from kdjax.training import distillation_loss
from kdjax.training import epoch_plan
from kdjax.training import from_nnx
from kdjax.training import grid
from kdjax.training import init_train_state
from kdjax.training import make_train_step
from kdjax.training import parameter_ema
from kdjax.training import scan_epoch
from kdjax.training import sweep

SHAPE, EXAMPLES = (3, 3, 1), 22


def network(key, width, dropout=0.0):
  @nnx.jit
  def build(key):
    return MLP(
      3,
      input_shape=SHAPE,
      hidden=(width,),
      dropout=dropout,
      rngs=nnx.Rngs(key),
    )

  return from_nnx(build(key))


def build(seed, temperature, weight, learning_rate):
  """One student with its own seed and hyper-parameters, traced or not."""
  key = jax.random.key(seed)
  student = network(key, 4, dropout=0.2)
  teacher = network(jax.random.key(100), 7)
  ce = stateless(
    optax.softmax_cross_entropy_with_integer_labels, select_supervised
  )
  kd = stateless(kl_divergence, temperature=temperature)
  objective = combine({"ce": (1 - weight, ce), "kd": (weight, kd)})
  optimizer = optax.chain(
    optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate),
    parameter_ema(0.9),
  )
  state = init_train_state(
    key,
    student,
    objective,
    optimizer,
    jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32),
    teacher=teacher,
  )
  loss_fn = distillation_loss(student.forward, objective, teacher.forward)
  frozen = {"teacher": teacher.variables}
  return state, frozen, make_train_step(loss_fn, optimizer)


def test_sweep_equals_the_loop_over_students():
  data = {
    "image": jax.random.normal(jax.random.key(1), (EXAMPLES, *SHAPE)),
    "label": jnp.arange(EXAMPLES) % 3,
  }
  points = grid(seed=(0, 1), temperature=(1.0, 4.0))
  points["weight"] = jnp.array([0.1, 0.5, 0.9, 1.0])
  points["learning_rate"] = jnp.array([1e-3, 1e-2, 3e-2, 1e-1])
  init = jax.jit(lambda point: build(**point)[0])
  states = jax.jit(jax.vmap(init))(points)
  keys = jax.vmap(jax.random.key)(points["seed"])
  plans = jax.vmap(lambda key: epoch_plan(EXAMPLES, 8, key=key))(keys)

  _, frozen, step = build(0, 2.0, 0.5, 0.1)
  epoch = scan_epoch(step)
  swept, swept_metrics = jax.jit(sweep(epoch))(
    states, frozen, data, plans, keys
  )
  single = jax.jit(chex.assert_max_traces(epoch, n=1))
  for i in range(4):
    state = init({k: v[i] for k, v in points.items()})
    plan = jax.tree.map(lambda x, i=i: x[i], plans)
    state, metrics = single(state, frozen, data, plan, keys[i])
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(
        a[i], b, rtol=1e-5, atol=2e-6
      ),
      (swept, swept_metrics),
      (state, metrics),
    )
  assert swept_metrics["loss"][0].shape == (4, 3)


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
