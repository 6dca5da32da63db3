"""The learner of distillation: who sees what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from kdjax.distillation import kd_loss, soft_target_loss
from kdjax.methods import Objective, stateless
from kdjax.nets import Outputs
from kdjax.training import (
  Model,
  Network,
  Variables,
  distill,
  from_linen,
  from_nnx,
)

KEY = jax.random.key(0)
BATCH = {
  "x": jax.random.normal(jax.random.key(1), (8, 5)),
  "label": jnp.arange(8) % 3,
  "mask": jnp.arange(8) < 6,
}


def linear(variables, x, *, train, key):
  return Outputs(x @ variables.params, {}, None), variables.state


def model(seed):
  weights = jax.random.normal(jax.random.key(seed), (5, 3))
  return Model(linear, Variables(weights, {}))


def module(seed):
  return nnx.Linear(5, 3, use_bias=False, rngs=nnx.Rngs(seed))


def moved(learner, batch=BATCH, **hyperparameters):
  """The student after one step."""
  state = learner.init(KEY, batch, **hyperparameters)
  state, metrics = jax.jit(learner.step)(state, learner.frozen, batch, KEY)
  return jax.tree.leaves(state.params["student"])[0], metrics


@pytest.mark.slow
def test_networks_are_modules_models_or_networks():
  """One student, in all the ways in which a user may have it."""
  weights = module(0).kernel[...]
  dense = linen.Dense(3, use_bias=False)
  linen_model = from_linen(
    dense, {"params": {"kernel": weights}}, mode=lambda train: {}
  )
  students = [
    module(0),
    from_nnx(module(0)),
    linen_model,
    Model(linear, Variables(weights, {})),
    Network(lambda key: Variables(weights, {}), linear),
  ]
  results = [
    moved(distill(student, model(1), kd_loss, optax.sgd(0.1), on="x"))
    for student in students
  ]
  for student, metrics in results[1:]:
    np.testing.assert_allclose(student, results[0][0], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], results[0][1]["loss"], 1e-6)


def test_a_network_without_weights_follows_the_key():
  student = Network.of(lambda rngs: nnx.Linear(5, 3, rngs=rngs))
  learner = distill(student, model(1), kd_loss, optax.sgd(0.1), on="x")
  init = jax.jit(lambda key: learner.init(key, BATCH).params["student"])
  first, again, other = (init(jax.random.key(i)) for i in (1, 1, 2))
  np.testing.assert_array_equal(first["kernel"], again["kernel"])
  assert np.all(first["kernel"] != other["kernel"])


def test_a_users_loss_is_bound_by_its_names():
  def mine(student_logits, teacher_logits, labels, *, slack):
    gap = jnp.sum(jnp.abs(student_logits - teacher_logits), -1)
    return jnp.maximum(gap - slack, 0.0) + labels

  student, teacher = model(0), model(1)
  learner = distill(student, teacher, mine, optax.sgd(0.1), on="x", slack=0.5)
  _, metrics = moved(learner)
  x, labels = BATCH["x"][:6], BATCH["label"][:6]
  gap = x @ student.variables.params - x @ teacher.variables.params
  expected = jnp.maximum(jnp.abs(gap).sum(-1) - 0.5, 0) + labels
  np.testing.assert_allclose(metrics["loss"], (expected.sum(), 6), rtol=1e-5)
  # What is given to init replaces what was given to the learner.
  _, other = moved(learner, slack=1.5)
  expected = jnp.maximum(jnp.abs(gap).sum(-1) - 1.5, 0) + labels
  np.testing.assert_allclose(other["loss"][0], expected.sum(), rtol=1e-5)


def test_student_and_teacher_see_the_same_augmented_view():
  seen = {}

  def spy(name):
    def forward(variables, inputs, *, train, key):
      seen[name] = inputs, train
      return linear(variables, inputs, train=train, key=key)

    return Model(forward, model(0).variables)

  def augment(key, x):
    return x + jax.random.normal(key, x.shape)

  learner = distill(
    spy("student"),
    spy("teacher"),
    soft_target_loss,
    optax.sgd(0.1),
    on="x",
    augment=augment,
  )
  state = learner.init(KEY, BATCH)

  @jax.jit
  def views(batch):
    learner.step(state, learner.frozen, batch, KEY)
    return seen["student"][0], seen["teacher"][0]

  student, teacher = views(BATCH)
  np.testing.assert_array_equal(student, teacher)
  assert np.all(np.asarray(student) != np.asarray(BATCH["x"]))
  assert (seen["student"][1], seen["teacher"][1]) == (True, False)


@pytest.mark.slow
def test_the_teacher_may_see_another_entry():
  learner = distill(
    model(0),
    model(1),
    soft_target_loss,
    optax.sgd(0.1),
    on={"student": "x", "teacher": "y"},
  )
  _, same = moved(learner, BATCH | {"y": BATCH["x"]})
  _, other = moved(learner, BATCH | {"y": -BATCH["x"]})
  _, plain = moved(
    distill(model(0), model(1), soft_target_loss, optax.sgd(0.1), on="x")
  )
  np.testing.assert_allclose(same["loss"], plain["loss"], rtol=1e-6)
  assert abs(other["loss"][0] - plain["loss"][0]) > 0.1


def test_views_reach_student_and_teacher_with_the_key_of_the_augmentation():
  """A student that counts its calls sees image after image."""

  def student(variables, images, *, train, key):
    count = variables.state + 1
    logits = variables.params * images + 0.0 * count
    return Outputs(logits, {"count": count}, None), count

  def teacher(variables, images, *, train, key):
    return Outputs(10 * images, {}, None), variables.state

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    seen = {
      "weak": outputs["student"].logits,
      "strong": outputs["student_strong"].logits,
      "taught": outputs["teacher_strong"].logits,
      "calls": outputs["student_strong"].features["count"],
    }
    pairs = {name: (value, jnp.ones(3)) for name, value in seen.items()}
    return jnp.sum(outputs["student"].logits), state, pairs

  def augment(key, images):
    return images + jax.random.uniform(key)

  learner = distill(
    Model(student, Variables(np.float32(2.0), np.float32(0.0))),
    Model(teacher, Variables({}, {})),
    Objective(lambda *_: ({}, {}), apply),
    optax.sgd(0.0),
    augment=augment,
    views={"strong": lambda key, batch: -augment(key, batch["image"])},
  )
  batch = {"image": np.arange(3, dtype=np.float32), "mask": np.ones(3, bool)}
  state = learner.init(KEY, batch)
  state, seen = jax.jit(learner.step)(state, learner.frozen, batch, KEY)
  seen = {name: value for name, (value, _) in seen.items()}
  np.testing.assert_allclose(seen["strong"], -seen["weak"], rtol=1e-6)
  np.testing.assert_allclose(seen["taught"], -5 * seen["weak"], rtol=1e-6)
  assert seen["calls"] == state.state["student"] == 2


@pytest.mark.parametrize("wrong", [None, {}, jnp.eye(3), linear])
def test_a_student_is_a_network(wrong):
  kind = type(wrong).__name__
  with pytest.raises(TypeError, match=rf"student'\] is a {kind}; expected an "):
    distill(wrong, model(1), kd_loss, optax.sgd(0.1))


def test_a_linen_module_needs_its_variables():
  for networks in ((linen.Dense(3), model(1)), (model(0), linen.Dense(3))):
    with pytest.raises(
      TypeError, match=r"is a Linen module without variables; expected training"
    ):
      distill(*networks, kd_loss, optax.sgd(0.1))


def test_hyperparameters_are_the_losss_own():
  student, sgd = model(0), optax.sgd(0.1)
  with pytest.raises(
    ValueError, match="distill: kd_loss has no hyper-parameter 'heat'; expected"
  ):
    distill(student, student, kd_loss, sgd, heat=4.0)
  with pytest.raises(
    ValueError, match=r"temperature given beside an Objective; expected them wh"
  ):
    distill(student, student, stateless(kd_loss), sgd, temperature=4.0)

  def mine(student_logits, *, slack):
    return student_logits.sum(-1) * slack

  with pytest.raises(
    ValueError, match=r"mine has no value for slack; expected them as keyword"
  ):
    distill(student, None, mine, sgd)
  learner = distill(student, student, kd_loss, sgd, on="x", temperature=4.0)
  with pytest.raises(
    ValueError,
    match="distill: there is no hyper-parameter 'heat'; expected one of temp",
  ):
    learner.init(KEY, BATCH, heat=2.0)
