"""The average of the parameters against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import training
from kdjax.methods import Method, Objective, Pass, parameter_ema
from kdjax.nets import Outputs
from kdjax.training import (
  Model,
  TrainState,
  Variables,
  adapt,
  averaged_student,
  make_train_step,
)

GRADIENTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def run(decay, dtype=jnp.float32):
  optimizer = optax.chain(optax.sgd(0.1), parameter_ema(decay))
  params = {"w": jnp.ones(3, dtype)}
  state, history = optimizer.init(params), [params["w"]]
  for gradient in GRADIENTS:
    updates, state = optimizer.update(
      {"w": jnp.asarray(gradient, dtype)}, state, params
    )
    params = optax.apply_updates(params, updates)
    history.append(params["w"])
  average = optax.tree.get(state, "parameter_average")["w"]
  return np.asarray(history, np.float64), average


def closed_form(history, decay):
  powers = decay ** np.arange(len(history))[::-1]
  weights = powers * np.where(np.arange(len(history)) == 0, 1, 1 - decay)
  np.testing.assert_allclose(weights.sum(), 1)
  return weights @ history


def test_average_equals_the_closed_form():
  for decay in (0.0, 0.5, 0.9):
    history, average = run(decay)
    np.testing.assert_allclose(average, closed_form(history, decay), rtol=1e-6)
  plain = 1 - 0.1 * GRADIENTS.sum(0)
  np.testing.assert_allclose(history[-1], plain, rtol=1e-6)


def test_average_of_half_precision_is_in_float32():
  history, average = run(0.999, jnp.bfloat16)
  assert average.dtype == jnp.float32
  np.testing.assert_allclose(average, closed_form(history, 0.999), rtol=1e-6)
  assert np.all(average != 1)


def test_decay_can_be_swept():
  averages = jax.vmap(lambda decay: run_traced(decay))(jnp.array([0.5, 0.9]))
  for decay, average in zip((0.5, 0.9), averages, strict=True):
    np.testing.assert_allclose(average, run(decay)[1], rtol=1e-6)


def run_traced(decay):
  optimizer = optax.chain(optax.sgd(0.1), parameter_ema(decay))
  params = {"w": jnp.ones(3)}
  state = optimizer.init(params)

  def body(carry, gradient):
    params, state = carry
    updates, state = optimizer.update({"w": gradient}, state, params)
    return (optax.apply_updates(params, updates), state), None

  (_, state), _ = jax.lax.scan(body, (params, state), GRADIENTS)
  return optax.tree.get(state, "parameter_average")["w"]


def test_it_says_what_is_missing_or_out_of_range():
  optimizer = parameter_ema(0.9)
  params = {"w": jnp.ones(3)}
  with pytest.raises(ValueError, match="params is None; expected the parame"):
    optimizer.update(params, optimizer.init(params), None)
  for decay in (-0.1, 1.5, float("nan")):
    with pytest.raises(ValueError, match=f"decay is {decay}; expected"):
      parameter_ema(decay)


def mean_teacher(*links):
  """A step that records its teacher while the student runs away."""

  def loss_fn(params, state, frozen, batch, key):
    told = frozen["average"], frozen["other"]
    return jnp.sum(params["student"]["w"]), ({"told": told} | state, {})

  optimizer = optax.chain(optax.sgd(1.0), *links)
  params = {"student": {"w": jnp.zeros(2, jnp.bfloat16)}, "objective": {}}
  state = {"student": {"mean": jnp.array(7.0)}, "objective": {}}
  start = TrainState(jnp.array(0), params, state, optimizer.init(params))
  return make_train_step(loss_fn, optimizer), start


def test_the_mean_teacher_is_the_average_before_the_step():
  step, state = mean_teacher(parameter_ema(0.5))
  frozen = {"other": jnp.array(1.0)}
  for expected in (0.0, -0.5, -1.25):
    state, _ = step(state, frozen, {}, jax.random.key(0))
    teacher, other = state.state["told"]
    np.testing.assert_array_equal(teacher.params["w"], np.full(2, expected))
    assert teacher.params["w"].dtype == jnp.bfloat16
    assert teacher.state["mean"] == 7
    assert other == 1
    state = state._replace(
      state={k: v for k, v in state.state.items() if k != "told"}
    )


def test_an_average_that_nobody_keeps():
  step, state = mean_teacher()
  with pytest.raises(KeyError, match="average"):
    step(state, {"other": jnp.array(1.0)}, {}, jax.random.key(0))
  with pytest.raises(ValueError, match="the optimizer keeps no average"):
    averaged_student(state)


def scaled(variables, x, *, train, key):
  return Outputs(variables.params * x, {}, x), variables.state


def test_a_pass_of_the_average_is_the_mean_teacher():
  """It runs without gradient and follows at its own pace."""

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    student, average = (outputs[k].logits for k in ("student", "average"))
    seen = {"average": (jnp.sum(average), jnp.float32(1.0))}
    return jnp.sum(student * average), state, seen

  optimizer = optax.chain(optax.sgd(1.0), parameter_ema(0.5))
  learner = training.learner(
    Method(
      Objective(lambda *_: ({}, {}), apply),
      {"student": Pass(train=True), "average": Pass("average")},
    ),
    Model(scaled, Variables(jnp.array(1.0), {})),
    optimizer,
    on="x",
  )
  batch = {"x": jnp.array([1.0]), "mask": jnp.array([True])}
  key = jax.random.key(0)
  state = learner.init(key, batch)
  assert learner.frozen == {}
  student, average = 1.0, 1.0
  step = jax.jit(learner.step, donate_argnums=0)
  for _ in range(3):
    state, metrics = step(state, {}, batch, key)
    np.testing.assert_allclose(metrics["average"][0], average, rtol=1e-6)
    # The slope is the average alone: it is no function of the student.
    student -= average
    average = (average + student) / 2
    np.testing.assert_allclose(state.params["student"], student, atol=1e-6)


def test_an_average_teaches_both_domains():
  def gap(source_teacher_logits, target_teacher_logits, source_logits):
    return (source_teacher_logits + 10 * target_teacher_logits) * source_logits

  learner = adapt(
    Model(scaled, Variables(jnp.array(2.0), {})),
    gap,
    optax.chain(optax.sgd(0.0), parameter_ema(0.5)),
    teacher="average",
    on="x",
  )
  domain = {"x": jnp.array([1.0, 3.0]), "mask": jnp.array([True, False])}
  batch = {"source": domain, "target": domain | {"x": jnp.array([5.0, 0.0])}}
  state = learner.init(jax.random.key(0), batch)
  _, metrics = learner.step(state, {}, batch, jax.random.key(0))
  assert metrics["loss"] == ((2 + 100) * 2, 1)
  with pytest.raises(ValueError, match=r"teacher is 'mean'; expected a netw"):
    adapt(
      Model(scaled, Variables(jnp.array(2.0), {})),
      gap,
      optax.sgd(0.1),
      teacher="mean",
    )
