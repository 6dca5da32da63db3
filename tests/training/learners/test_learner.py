"""A learner is pure functions; what they need is in their arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, training
from kdjax.distillation import kd_loss
from kdjax.methods import Pass, combine, modular, parameter_ema, stateless
from kdjax.nets import Outputs
from kdjax.training import (
  Model,
  Network,
  TrainState,
  Variables,
  adapt,
  distill,
  finetune,
)

KEY = jax.random.key(0)
TEACHER_WIDTH = 13
BATCH = {
  "x": jax.random.normal(jax.random.key(1), (8, 5)),
  "label": jnp.arange(8) % 3,
  "mask": jnp.arange(8) < 6,
}
SPECS = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH)


class Body(nnx.Module):
  def __init__(self, width, rngs):
    self.first = nnx.Linear(5, width, rngs=rngs)
    self.drop = nnx.Dropout(0.2, rngs=rngs)
    self.last = nnx.Linear(width, 3, rngs=rngs)

  def __call__(self, x):
    x = self.drop(self.first(x))
    return Outputs(self.last(x), {}, x)


def body(seed, width):
  return Body(width, nnx.Rngs(seed))


def projector(student, teacher, rngs):
  widths = student.embedding.shape[-1], teacher.embedding.shape[-1]
  return nnx.Linear(*widths, rngs=rngs)


def hint(projector, student_embedding, teacher_embedding):
  return jnp.mean((projector(student_embedding) - teacher_embedding) ** 2, -1)


def objective():
  return combine(
    {
      "kd": (0.5, stateless(kd_loss, temperature=4.0)),
      "hint": (2.0, modular(projector, hint)),
    }
  )


def widths(tree):
  return {n for leaf in jax.tree.leaves(tree) for n in jnp.shape(leaf)}


def distillation():
  optimizer = optax.chain(optax.adam(1e-3), parameter_ema(0.9))
  return distill(
    body(0, 4), body(1, TEACHER_WIDTH), stateless(kd_loss), optimizer, on="x"
  )


def adaptation():
  def loss(target_teacher_logits, target_logits):
    return jnp.sum(target_teacher_logits * target_logits, -1)

  return adapt(
    body(0, 4), loss, optax.adam(1e-3), teacher=body(1, TEACHER_WIDTH), on="x"
  )


def finetuning():
  def loss(student_logits, past_logits):
    return jnp.sum(student_logits * past_logits, -1)

  return finetune(
    body(0, 4), body(1, TEACHER_WIDTH), loss, optax.adam(1e-3), on="x"
  )


@pytest.mark.parametrize("make", [distillation, adaptation, finetuning])
def test_a_frozen_network_is_in_no_state_and_in_no_closure(make):
  learner = make()
  batch = BATCH
  if make is adaptation:
    batch = {"source": BATCH, "target": BATCH}
  state = learner.init(KEY, batch)
  assert TEACHER_WIDTH in widths(learner.frozen)
  assert TEACHER_WIDTH not in widths(state)
  step = jax.make_jaxpr(learner.step)(state, learner.frozen, batch, KEY)
  evaluate = jax.make_jaxpr(learner.evaluate)(state, learner.frozen, BATCH)
  for program in (step, evaluate):
    # A closure would show as a constant of the program, the student's too.
    assert not {TEACHER_WIDTH, 4} & widths(program.consts)


@pytest.mark.slow
def test_the_state_of_a_learner_may_be_donated():
  """Nor does a step take the networks that the user has given with it."""
  student = body(0, 4)
  optimizer = optax.chain(optax.adam(1e-3), parameter_ema(0.9))
  learner = distill(student, body(1, 6), objective(), optimizer, on="x")
  step = jax.jit(learner.step, donate_argnums=0)
  for _ in range(2):  # also a second state of the same learner
    state = learner.init(KEY, BATCH)
    for _ in range(2):
      state, _ = step(state, learner.frozen, BATCH, KEY)
  assert state.step == 2
  held = nnx.state(student), learner.frozen
  assert not any(x.is_deleted() for x in jax.tree.leaves(held))


@pytest.mark.slow
def test_init_is_traced_and_mapped_over_keys_and_hyperparameters():
  learner = distill(
    Network.of(functools.partial(Body, 4)),
    body(1, 6),
    objective(),
    optax.sgd(0.1),
    on="x",
  )
  keys = jax.random.split(KEY, 3)
  temperatures = jnp.array([1.0, 2.0, 4.0])

  def init(key, temperature):
    # Only the shapes of a batch count.
    return learner.init(key, SPECS, temperature=temperature, hint=3.0)

  states = jax.jit(jax.vmap(init))(keys, temperatures)
  assert isinstance(states, TrainState)
  assert states.step.shape == (3,)
  parts = states.state["objective"]
  np.testing.assert_array_equal(
    parts["objectives"]["kd"]["temperature"], temperatures
  )
  np.testing.assert_array_equal(parts["weights"]["hint"], 3.0)
  np.testing.assert_array_equal(parts["weights"]["kd"], 0.5)
  assert states.params["objective"]["hint"]["kernel"].shape == (3, 4, 6)
  for tree in (states.params["student"], states.params["objective"]):
    for leaf in jax.tree.leaves(tree):
      assert leaf.ndim < 3 or np.all(leaf[0] != leaf[1])
  one = learner.init(keys[1], BATCH, temperature=2.0, hint=3.0)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6), states, one
  )


def test_weights_of_a_given_network_do_not_follow_the_key():
  learner = distillation()
  first, other = (learner.init(jax.random.key(i), BATCH) for i in (1, 2))
  jax.tree.map(
    np.testing.assert_array_equal,
    first.params["student"],
    other.params["student"],
  )


def test_a_learner_holds_the_modules_as_they_were_given():
  student = body(0, 4)
  learner = distill(student, None, lambda logits: logits[:, 0], optax.sgd(1.0))
  assert learner.modules["student"] is student


@pytest.mark.slow
@pytest.mark.parametrize(
  "method",
  [
    methods.create("crd", num_examples=20, negatives=4, dim=5),
    methods.create("ft"),
    methods.create("bi_tuning", num_classes=3, dim=4, size=4),
  ],
)
def test_each_array_of_a_new_state_is_its_own(method):
  """Or it would be donated twice."""
  maps, dim = jnp.ones((4, 4, 4, 2)), 6

  def forward(variables, x, *, train, key):
    head = variables.params, jnp.zeros(3)
    embedding = jnp.ones((len(x), dim))
    logits = embedding @ variables.params
    return Outputs(logits, {"f": maps}, embedding, classifier=head), {}

  model = Model(forward, Variables(jnp.ones((dim, 3)), {}))
  passes = {name: Pass(name) for name in ("teacher", "past", "average")}
  learner = training.learner(
    methods.Method(method.objective, {"student": Pass(train=True)} | passes),
    {"student": model, "teacher": model, "past": model},
    optax.sgd(0.1),
  )
  batch = {
    "image": maps,
    "label": jnp.zeros(4, int),
    "index": jnp.arange(4),
    "mask": jnp.ones(4, bool),
  }
  state = learner.init(KEY, batch)
  leaves = jax.tree.leaves((state.params, state.state))
  places = {x.unsafe_buffer_pointer() for x in leaves if x.size}
  assert len(places) == sum(x.size > 0 for x in leaves)


def test_an_unknown_hyperparameter_is_named():
  learner = distill(body(0, 4), body(1, 6), objective(), optax.sgd(0.1), on="x")
  with pytest.raises(
    ValueError,
    match="distill: there is no hyper-parameter 'heat'; expected one of ",
  ):
    learner.init(KEY, BATCH, heat=2.0)


def test_evaluation_is_by_default_that_of_the_first_network():
  learner = training.learner(
    methods.Method(
      stateless(lambda peer_logits: peer_logits[:, 0]),
      {"peer": Pass("peer", on="x", train=True)},
    ),
    {"peer": body(0, 4)},
    optax.sgd(0.1),
    on="x",
    metrics={"first": (lambda logits: logits[:, 0], ("peer_logits",))},
  )
  state = learner.init(KEY, BATCH)
  assert learner.evaluate(state, {}, BATCH)["first"][1] == 6
