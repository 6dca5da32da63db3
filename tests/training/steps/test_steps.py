"""What a step trains, what it leaves alone, and when it compiles."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.distillation import soft_target_loss
from kdjax.methods import combine, parameter_ema, stateless
from kdjax.nets import MLP, Outputs
from kdjax.training import (
  Model,
  TrainState,
  Variables,
  distill,
  from_nnx,
  make_train_step,
  mean_metrics,
)

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
TEACHER_WIDTH = 13
cross_entropy = optax.softmax_cross_entropy_with_integer_labels

BATCH = jax.tree.map(
  jnp.asarray,
  {
    "image": np.random.default_rng(1)
    .normal(size=(8, *SHAPE))
    .astype(np.float32),
    "label": np.arange(8) % 3,
    "mask": np.arange(8) < 6,
  },
)


@functools.cache
def network(seed, width, **options):
  """Built in one program, and only read by the tests."""

  @nnx.jit
  def build():
    rngs = nnx.Rngs(seed)
    return MLP(3, input_shape=SHAPE, hidden=(width,), rngs=rngs, **options)

  return from_nnx(build())


def supervised_loss(logits, labels):
  return cross_entropy(logits, labels)


def distillation(student, optimizer, **options):
  objective = combine(
    {
      "ce": (0.1, stateless(supervised_loss)),
      "kd": (0.9, stateless(soft_target_loss, temperature=4.0)),
    }
  )
  teacher = network(1, TEACHER_WIDTH)
  learner = distill(student, teacher, objective, optimizer, **options)
  return learner, learner.init(KEY, BATCH)


def supervised(forward, params, optimizer):
  student = Model(forward, Variables(params, {}))
  learner = distill(student, None, supervised_loss, optimizer)
  return learner, learner.init(KEY, BATCH)


def linear(variables, inputs, *, train, key):
  logits = inputs.reshape(len(inputs), -1) @ variables.params
  return Outputs(logits, {}, None), variables.state


def widths(tree):
  return {n for leaf in jax.tree.leaves(tree) for n in jnp.shape(leaf)}


@pytest.mark.slow
def test_the_teacher_is_frozen_and_nowhere_but_in_its_argument():
  learner, state = distillation(network(0, 5), optax.adam(1e-3))
  assert TEACHER_WIDTH in widths(learner.frozen)
  assert TEACHER_WIDTH not in widths(state)
  gradients, _ = jax.jit(jax.grad(learner.loss_fn, argnums=2, has_aux=True))(
    state.params, state.state, learner.frozen, BATCH, KEY
  )
  assert TEACHER_WIDTH in widths(gradients)
  assert not any(np.any(g) for g in jax.tree.leaves(gradients))
  for program in (
    jax.make_jaxpr(learner.step)(state, learner.frozen, BATCH, KEY),
    jax.make_jaxpr(learner.evaluate)(state, learner.frozen, BATCH),
  ):
    # A closure would show as a constant of the program.
    assert TEACHER_WIDTH not in widths(program.consts)
  new, _ = jax.jit(learner.step)(state, learner.frozen, BATCH, KEY)
  assert TEACHER_WIDTH not in widths(new)
  changed = jax.tree.map(
    lambda a, b: bool(np.any(a != b)), new.params, state.params
  )
  assert all(jax.tree.leaves(changed))


@pytest.mark.slow
def test_hyperparameters_change_without_compiling_again():
  optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
  learner, state = distillation(network(0, 5), optimizer)
  step = jax.jit(chex.assert_max_traces(learner.step, n=1))
  losses = []
  for temperature in (1.0, 4.0, 20.0):
    new = optax.tree.set(
      state, temperature=jnp.float32(temperature), learning_rate=jnp.float32(0)
    )
    new, metrics = step(new, learner.frozen, BATCH, KEY)
    # The loss is of order T^2 times a divergence that falls with T^2.
    losses.append(mean_metrics(metrics)["kd/loss"] / temperature**2)
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    _, metrics = step(new, learner.frozen, BATCH, KEY)
    assert mean_metrics(metrics)["kd/loss"] / temperature**2 == losses[-1]
  assert losses[0] > losses[1] > losses[2] > 0


def test_supervised_training_is_an_objective_without_a_teacher():
  params = jnp.zeros((16, 3))
  learner, state = supervised(linear, params, optax.sgd(0.5))
  state, metrics = jax.jit(learner.step)(state, {}, BATCH, KEY)

  def loss(params):
    logits = BATCH["image"].reshape(8, -1)[:6] @ params
    return jnp.mean(cross_entropy(logits, BATCH["label"][:6]))

  np.testing.assert_allclose(
    state.params["student"],
    -0.5 * jax.jit(jax.grad(loss))(params),
    rtol=1e-5,
    atol=1e-7,
  )
  np.testing.assert_allclose(metrics["loss"], (6 * np.log(3), 6), rtol=1e-6)
  assert isinstance(state, TrainState)
  assert state.step == 1


def test_padded_rows_change_nothing():
  learner, state = distillation(network(0, 5), optax.adam(1e-2))
  step = jax.jit(learner.step)
  padding = ~np.asarray(BATCH["mask"])
  other = BATCH | {
    "image": np.where(padding[:, None, None, None], 7, BATCH["image"]),
    "label": np.where(padding, 0, BATCH["label"]),
  }
  results = [step(state, learner.frozen, x, KEY) for x in (BATCH, other)]
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_one_key_serves_every_step():
  def noise(variables, inputs, *, train, key):
    if key is None:
      key = KEY
    outputs, state = linear(variables, inputs, train=train, key=key)
    logits = outputs.logits + jax.random.normal(key, outputs.logits.shape)
    return outputs._replace(logits=logits), state

  learner, state = supervised(noise, jnp.zeros((16, 3)), optax.sgd(0.0))
  step = jax.jit(learner.step)
  state, first = step(state, {}, BATCH, KEY)
  _, second = step(state, {}, BATCH, KEY)
  assert first["loss"][0] != second["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize("half_parameters", [False, True])
def test_bfloat16_trains_with_a_float32_loss(half_parameters):
  student = network(0, 5, dtype=jnp.bfloat16)
  if half_parameters:
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), student.variables)
    student = student._replace(variables=half)
  optimizer = optax.chain(optax.sgd(0.5), parameter_ema(0.5))
  learner, state = distillation(student, optimizer)
  dtypes = jax.tree.map(lambda x: x.dtype, state)
  step, losses = jax.jit(learner.step), []
  for _ in range(5):
    state, metrics = step(state, learner.frozen, BATCH, KEY)
    losses.append(float(mean_metrics(metrics)["loss"]))
  assert jax.tree.map(lambda x: x.dtype, state) == dtypes
  assert metrics["kd/loss"][0].dtype == jnp.float32
  assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_state_may_be_donated():
  student = network(0, 5)
  optimizer = optax.chain(optax.adam(1e-3), parameter_ema(0.9))
  learner, state = distillation(student, optimizer)
  step = jax.jit(learner.step, donate_argnums=0)
  for _ in range(2):
    state, _ = step(state, learner.frozen, BATCH, KEY)
  assert not any(x.is_deleted() for x in jax.tree.leaves(student.variables))
  assert state.step == 2


def test_a_step_of_a_loss_written_by_hand():
  """`make_train_step` knows nothing of passes or objectives."""

  def loss_fn(params, state, frozen, batch, key, *, axis_name=None):
    values = (params["student"] * batch["x"] - frozen["scale"]) ** 2
    total = jnp.sum(values)
    return total, (state, {"loss": (total, jnp.float32(len(values)))})

  optimizer = optax.sgd(0.25)
  params = {"student": jnp.array(0.0), "objective": {}}
  state = TrainState(jnp.array(0), params, {}, optimizer.init(params))
  step = make_train_step(loss_fn, optimizer)
  batch = {"x": jnp.array([1.0, 2.0])}
  state, metrics = jax.jit(step)(state, {"scale": 2.0}, batch, KEY)
  # The slope at 0 is -2 * 2 * (1 + 2).
  assert state.params["student"] == 3
  assert metrics == {"loss": (8, 2)}
