"""Objectives of NNX modules: sizes, state, keys, devices, predictions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from kdjax.nets import Outputs
from kdjax.objectives import combine
from kdjax.objectives import modular
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless

RNG = np.random.default_rng(0)
STUDENT = Outputs(
  RNG.normal(size=(16, 3)).astype(np.float32),
  {},
  RNG.normal(size=(16, 5)).astype(np.float32),
)
TEACHER = Outputs(
  RNG.normal(size=(16, 3)).astype(np.float32),
  {},
  RNG.normal(size=(16, 7)).astype(np.float32),
)
BATCH = {
  "mask": np.arange(16) < 13,
  "label": RNG.normal(size=(16, 3)).astype(np.float32),
}
KEY = jax.random.key(0)


class Projector(nnx.Module):
  """A projection, batch statistics, and a bank that remembers."""

  def __init__(self, student, teacher, rngs, axis_name=None):
    inputs, outputs = student.embedding.shape[-1], teacher.embedding.shape[-1]
    self.linear = nnx.Linear(inputs, outputs, rngs=rngs)
    self.norm = nnx.BatchNorm(
      outputs, momentum=0.9, axis_name=axis_name, rngs=rngs
    )
    self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

  def __call__(self, x):
    return self.norm(self.linear(x))


def gap(projector, student, teacher, batch, *, power):
  projector.calls[...] += 1
  difference = projector(student.embedding) - teacher.embedding
  return jnp.mean(jnp.abs(difference) ** power, -1)


def build(axis_name=None):
  return modular(
    functools.partial(Projector, axis_name=axis_name),
    gap,
    predict=lambda module, student, teacher: module(student.embedding),
    axis_name=axis_name,
    power=2.0,
  )


def initial(objective, *pair):
  return jax.jit(lambda: objective.init(KEY, *(pair or (STUDENT, TEACHER))))()


@pytest.fixture(scope="module")
def variables():
  """The parameters and the state that all begin with."""
  return initial(build())


def value_and_gradient(objective, params, state, student, teacher, batch):
  def loss(params):
    value, moved, metrics = objective.apply(
      params, state, student, teacher, batch, KEY
    )
    return value, (moved, metrics)

  (value, (moved, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(
    params
  )
  return value, gradient, moved, metrics


def test_parameters_are_apart_from_statistics_banks_and_hyperparameters(
  variables,
):
  params, state = variables
  assert params["linear"]["kernel"].shape == (5, 7)
  assert set(params) == {"linear", "norm"}
  assert set(state["module"]) == {"norm", "calls"}
  assert state["hyperparameters"] == {"power": 2.0}


@pytest.fixture(scope="module")
def of_one_device(variables):
  step = jax.jit(functools.partial(value_and_gradient, build()))
  return step(*variables, STUDENT, TEACHER, BATCH)


def test_a_call_moves_the_state_and_not_the_parameters(of_one_device):
  value, gradient, moved, metrics = of_one_device
  assert moved["module"]["calls"] == 1
  assert np.any(moved["module"]["norm"]["mean"] != 0)
  assert np.any(gradient["linear"]["kernel"] != 0)
  total, count = metrics["loss"]
  assert count == 13
  np.testing.assert_allclose(total / count, value, rtol=1e-6)


def test_eight_devices_equal_one(variables, of_one_device):
  def step(params, state, student, teacher, batch):
    value, gradient, moved, metrics = value_and_gradient(
      build("batch"), params, state, student, teacher, batch
    )
    gradient = jax.lax.pmean(gradient, "batch")
    return value, gradient, moved, jax.lax.psum(metrics, "batch")

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  shards = P("batch")
  sharded = jax.shard_map(
    step, mesh=mesh, in_specs=(P(), P(), shards, shards, shards), out_specs=P()
  )
  got = jax.jit(sharded)(*variables, STUDENT, TEACHER, BATCH)
  for a, b in zip(
    jax.tree.leaves(got), jax.tree.leaves(of_one_device), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_loss_that_asks_for_a_key_gets_one():
  def loss(module, student, teacher, batch, *, key):
    return jax.random.uniform(key, batch["mask"].shape)

  def build(student, teacher, rngs):
    return nnx.Linear(1, 1, rngs=rngs)

  objective = modular(build, loss)
  params, state = initial(objective)
  apply = jax.jit(objective.apply)
  values = [
    apply(params, state, STUDENT, TEACHER, BATCH, jax.random.key(i))[0]
    for i in range(2)
  ]
  assert values[0] != values[1]


def test_a_loss_of_another_shape_is_refused():
  def loss(module, student, teacher, batch):
    return jnp.zeros(3)

  objective = modular(Projector, loss)
  arguments = STUDENT, TEACHER, BATCH, KEY
  with pytest.raises(ValueError, match=r"\(3,\); expected one value an exampl"):
    jax.eval_shape(objective.apply, *initial(objective), *arguments)


def test_half_precision_reaches_the_module_in_float32():
  def loss(module, student, teacher, batch):
    assert student.embedding.dtype == teacher.embedding.dtype == jnp.float32
    return module(student.embedding).sum(-1)

  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (STUDENT, TEACHER))
  objective = modular(Projector, loss)
  variables = jax.eval_shape(lambda: objective.init(KEY, *half))
  jax.eval_shape(objective.apply, *variables, *half, BATCH, KEY)


def test_predictions_pass_through_combine_in_evaluation_mode():
  objective = combine(
    {
      "ce": (0.1, stateless(lambda z, y: (z - y).sum(-1), select_supervised)),
      "projected": (1.0, build()),
    }
  )
  params, state = initial(objective)
  predict = jax.jit(objective.predict)
  first = np.asarray(predict(params, state, STUDENT, TEACHER))
  assert first.shape == (16, 7)
  # Batch statistics of other examples do not matter.
  part = jax.tree.map(lambda x: x[:1], (STUDENT, TEACHER))
  alone = predict(params, state, *part)
  np.testing.assert_allclose(alone, first[:1], rtol=1e-5)
  assert stateless(lambda z, y: z, select_supervised).predict is None
  with pytest.raises(ValueError, match="a, b answer for the student"):
    combine({"a": (1.0, build()), "b": (1.0, build())})
