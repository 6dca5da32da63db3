"""What an evaluation counts, and what its metrics are called by."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import metrics as measures
from kdjax.distillation import kd_loss
from kdjax.methods import Objective, Pass
from kdjax.nets import MLP, Outputs
from kdjax.ops import masked_mean
from kdjax.training import (
  Model,
  TrainState,
  Variables,
  distill,
  from_nnx,
  make_eval_step,
  mean_metrics,
  parallelize,
  pass_loss,
)

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
BATCH = {
  "image": jax.random.normal(jax.random.key(1), (8, *SHAPE)),
  "label": jnp.arange(8) % 3,
  "mask": jnp.arange(8) < 6,
}


@functools.cache
def network(seed, width):

  @nnx.jit
  def build():
    rngs = nnx.Rngs(seed)
    return MLP(3, input_shape=SHAPE, hidden=(width,), rngs=rngs)

  return from_nnx(build())


def predictions(model):
  outputs, _ = model.forward(
    model.variables, BATCH["image"], train=False, key=None
  )
  return np.argmax(outputs.logits, -1)[:6]


@pytest.mark.slow
def test_evaluation_counts_what_the_mask_says():
  student, teacher = network(0, 5), network(1, 13)
  learner = distill(student, teacher, kd_loss, optax.sgd(0.1))
  state = learner.init(KEY, BATCH)
  evaluate = jax.jit(learner.evaluate)
  result = evaluate(state, learner.frozen, BATCH)
  own, told = predictions(student), predictions(teacher)
  labels = np.asarray(BATCH["label"][:6])
  assert set(result) == {
    "accuracy",
    "cross_entropy",
    "agreement",
    "kl",
    "teacher_accuracy",
    "teacher_entropy",
  }
  assert result["accuracy"] == (np.sum(own == labels), 6)
  assert result["agreement"] == (np.sum(own == told), 6)
  empty = BATCH | {"mask": np.zeros(8, bool)}
  means = mean_metrics(evaluate(state, learner.frozen, empty))
  assert not any(means.values())


@pytest.mark.slow
def test_metrics_bind_by_name_or_by_names_given():
  """And one of the whole batch has its mask and its axis."""

  def gap(teacher_logits, logits):
    return jnp.abs(logits - teacher_logits).sum(-1)

  def widest(labels, *, where, axis_name):
    value = jnp.max(jnp.where(where, labels, -1)).astype(float)
    return value if axis_name is None else jax.lax.pmax(value, axis_name)

  metrics = {
    "gap": gap,
    "turned": (gap, ("student_logits", "teacher_logits")),
    "from_zero": (lambda x: jnp.abs(x).sum(-1), ("student_logits",)),
    "widest": widest,
  }
  learner = distill(
    network(0, 5), network(1, 13), kd_loss, optax.sgd(0.1), metrics=metrics
  )
  state = learner.init(KEY, BATCH)
  result = jax.jit(learner.evaluate)(state, learner.frozen, BATCH)
  logits = [
    model.forward(model.variables, BATCH["image"], train=False, key=None)[0]
    for model in (network(0, 5), network(1, 13))
  ]
  student, teacher = (np.asarray(x.logits[:6]) for x in logits)
  expected = np.abs(student - teacher).sum()
  np.testing.assert_allclose(result["gap"], (expected, 6), rtol=1e-5)
  np.testing.assert_allclose(result["turned"], (expected, 6), rtol=1e-5)
  np.testing.assert_allclose(
    result["from_zero"], (np.abs(student).sum(), 6), rtol=1e-5
  )
  assert mean_metrics(result)["widest"] == 2
  # Six examples that count, two a device, on four devices.
  for mode in ("pmap", "shard_map"):
    parallel = parallelize(learner.evaluate, mode, devices=jax.devices()[:4])
    many = parallel(state, learner.frozen, BATCH)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5), many, result
    )


@pytest.mark.slow
def test_an_objective_that_predicts_answers_for_the_student():
  def init(key, specs):
    return {"sign": jnp.array(-1.0)}, {}

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    value = masked_mean(outputs["student"].logits, axis_name=axis_name)
    return params["sign"] * value, state, {}

  def predict(params, state, outputs):
    return params["sign"] * outputs["student"].logits

  student = network(0, 5)
  results = []
  for objective in (
    Objective(init, apply, predict),
    Objective(init, apply),
  ):
    learner = distill(student, None, objective, optax.sgd(0.1))
    state = learner.init(KEY, BATCH)
    results.append(learner.evaluate(state, {}, BATCH)["accuracy"][0])
  labels = np.asarray(BATCH["label"][:6])
  outputs, _ = student.forward(
    student.variables, BATCH["image"], train=False, key=None
  )
  least = np.argmin(outputs.logits[:6], -1)
  assert results[0] == np.sum(least == labels)
  assert results[1] == np.sum(predictions(student) == labels)


def test_batch_statistics_stay_as_they_are():
  """Evaluation runs the network in evaluation mode, whatever it is fed."""
  seen = []

  def forward(variables, x, *, train, key):
    seen.append((train, key))
    return Outputs(x @ variables.params, {}, None), {"count": 1}

  student = Model(forward, Variables(jnp.eye(3), {"count": 0}))
  loss_fn = pass_loss(
    {"student": student.forward},
    {"student": Pass("student", "x")},
    Objective(lambda *_: ({}, {}), lambda *_, **__: None),
  )
  evaluate = make_eval_step(loss_fn, {"accuracy": measures.accuracy})
  state = TrainState(
    0,
    {"student": jnp.eye(3), "objective": {}},
    {"student": {"count": 0}, "objective": {}},
    (),
  )
  batch = {"x": jnp.eye(3), "label": jnp.arange(3), "mask": jnp.ones(3, bool)}
  assert evaluate(state, {}, batch) == {"accuracy": (3, 3)}
  assert seen == [(False, None)]


@pytest.mark.parametrize("metrics", [{"loss": jnp.ones(2)}, [], ({}, {})])
def test_means_are_of_pairs(metrics):
  mean = mean_metrics.__wrapped__
  with pytest.raises(TypeError, match=r"expected name -> \(sum, count\)"):
    mean(metrics)
