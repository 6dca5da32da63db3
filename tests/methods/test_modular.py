"""Objectives of NNX modules: sizes, state, keys, devices, predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from kdjax.methods import combine, modular, stateless
from kdjax.nets import Outputs

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
BOTH = {"student": STUDENT, "teacher": TEACHER}
BATCH = {
  "mask": np.arange(16) < 13,
  "label": RNG.normal(size=(16, 3)).astype(np.float32),
}
KEY = jax.random.key(0)


class Projector(nnx.Module):
  """A projection, batch statistics, and a bank that remembers."""

  def __init__(self, student, teacher, rngs):
    inputs, outputs = student.embedding.shape[-1], teacher.embedding.shape[-1]
    self.linear = nnx.Linear(inputs, outputs, rngs=rngs)
    self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
    self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

  def __call__(self, x):
    return self.norm(self.linear(x))


def gap(projector, student, teacher, *, power):
  projector.calls[...] += 1
  difference = projector(student.embedding) - teacher.embedding
  return jnp.mean(jnp.abs(difference) ** power, -1)


def build():
  return modular(
    Projector,
    gap,
    predict=lambda module, student: module(student.embedding),
    power=2.0,
  )


def initial(objective):
  return jax.jit(lambda: objective.init(KEY, BOTH))()


@pytest.fixture(scope="module")
def variables():
  """The parameters and the state that all begin with."""
  return initial(build())


def value_and_gradient(params, state, outputs, batch, *, axis_name=None):
  def loss(params):
    value, moved, metrics = build().apply(
      params, state, outputs, batch, KEY, axis_name=axis_name
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
  return jax.jit(value_and_gradient)(*variables, BOTH, BATCH)


def test_a_call_moves_the_state_and_not_the_parameters(of_one_device):
  value, gradient, moved, metrics = of_one_device
  assert moved["module"]["calls"] == 1
  assert np.any(moved["module"]["norm"]["mean"] != 0)
  assert np.any(gradient["linear"]["kernel"] != 0)
  total, count = metrics["loss"]
  assert count == 13
  np.testing.assert_allclose(total / count, value, rtol=1e-6)


def test_eight_devices_equal_one(variables, of_one_device):
  def step(params, state, outputs, batch):
    value, gradient, moved, metrics = value_and_gradient(
      params, state, outputs, batch, axis_name="batch"
    )
    gradient = jax.lax.pmean(gradient, "batch")
    return value, gradient, moved, jax.lax.psum(metrics, "batch")

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  shards = P("batch")
  sharded = jax.shard_map(
    step, mesh=mesh, in_specs=(P(), P(), shards, shards), out_specs=P()
  )
  got = jax.jit(sharded)(*variables, BOTH, BATCH)
  for a, b in zip(
    jax.tree.leaves(got), jax.tree.leaves(of_one_device), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_loss_that_asks_for_a_key_gets_one():
  def by_name(module, mask, *, key):
    return jax.random.uniform(key, mask.shape)

  def by_place(module, key, mask):
    return by_name(module, mask, key=key)

  def build(rngs):
    return nnx.Linear(1, 1, rngs=rngs)

  values = []
  for loss in (by_name, by_place):
    objective = modular(build, loss)
    params, state = initial(objective)
    apply = jax.jit(objective.apply)
    values += [
      apply(params, state, BOTH, BATCH, jax.random.key(i))[0] for i in range(2)
    ]
  assert values[0] != values[1]
  assert values[:2] == values[2:]


def test_a_loss_of_another_shape_is_refused():
  def loss(module):
    return jnp.zeros(3)

  objective = modular(Projector, loss)
  with pytest.raises(ValueError, match=r"\(3,\); expected one value for each"):
    jax.eval_shape(objective.apply, *initial(objective), BOTH, BATCH, KEY)


def test_half_precision_reaches_the_module_in_float32():
  def loss(module, student, teacher):
    assert student.embedding.dtype == teacher.embedding.dtype == jnp.float32
    return module(student.embedding).sum(-1)

  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), BOTH)
  objective = modular(Projector, loss)
  variables = jax.eval_shape(lambda: objective.init(KEY, half))
  jax.eval_shape(objective.apply, *variables, half, BATCH, KEY)


def task(student_logits, labels):
  return (student_logits - labels).sum(-1)


def test_predictions_pass_through_combine_in_evaluation_mode():
  objective = combine(
    {
      "ce": (0.1, stateless(task)),
      "projected": (1.0, build()),
    }
  )
  params, state = initial(objective)
  predict = jax.jit(objective.predict)
  first = np.asarray(predict(params, state, BOTH))
  assert first.shape == (16, 7)
  # Batch statistics of other examples do not matter.
  part = jax.tree.map(lambda x: x[:1], BOTH)
  alone = predict(params, state, part)
  np.testing.assert_allclose(alone, first[:1], rtol=1e-5)
  assert stateless(task).predict is None
  with pytest.raises(ValueError, match="a, b answer for the student"):
    combine({"a": (1.0, build()), "b": (1.0, build())})


def test_axis_and_mask_reach_a_loss_that_asks_for_them():
  def loss(module, student_embeddings, mask, *, axis_name):
    total = jnp.sum(jnp.where(mask[:, None], student_embeddings, 0.0))
    return total if axis_name is None else jax.lax.psum(total, axis_name)

  objective = modular(lambda rngs: nnx.Linear(1, 1, rngs=rngs), loss)
  variables = initial(objective)
  expected = np.sum(STUDENT.embedding[:13])
  value, _, metrics = objective.apply(*variables, BOTH, BATCH, KEY)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert metrics["loss"][1] == 13
  halves = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), (BOTH, BATCH))

  def one(outputs, batch):
    return objective.apply(*variables, outputs, batch, KEY, axis_name="batch")[
      0
    ]

  values = jax.vmap(one, axis_name="batch")(*halves)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_name_that_stands_for_nothing_is_refused_at_once():
  objective = modular(lambda width, rngs: nnx.Linear(1, 1, rngs=rngs), task)
  with pytest.raises(
    ValueError, match=r"lambda.* reads 'width', which is none"
  ):
    objective.init(KEY, BOTH)
