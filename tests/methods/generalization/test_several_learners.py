"""Each kind of method trains otherwise than the mean cross-entropy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, nets, training
from tests.methods import learners

KEY = learners.KEY
SHAPE = (4, 4, 1)
DOMAINS, BATCH = 3, 4
BATCHED = learners.part(0, DOMAINS, BATCH)


def network(outputs=learners.CLASSES):
  return nets.MLP(outputs, input_shape=SHAPE, hidden=(6,), rngs=nnx.Rngs(0))


OTHERS = {
  "crossgrad": {"judge": network(DOMAINS)},
  "ddaig": {"judge": network(DOMAINS), "generator": network(16)},
}


class Maps(nnx.Module):
  """A small network whose two stages return maps."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.stages = nnx.List(
      [nnx.Linear(1, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)]
    )
    self.head = nnx.Linear(4, learners.CLASSES, rngs=rngs)

  def __call__(self, x):
    for stage in self.stages:
      x = nnx.relu(stage(x))
    return self.head(jnp.mean(x, (1, 2)))


@functools.cache
def trained(name, steps=1, student=network, **options):
  """The student after some steps of a method."""
  learner = training.generalize(
    {"student": student(), **OTHERS.get(name, {})},
    methods.create(name, **options),
    optax.adam(0.1),
  )
  state = jax.jit(learner.init)(KEY, BATCHED)
  step = jax.jit(learner.step)
  for _ in range(steps):
    state, _ = step(state, learner.frozen, BATCHED, KEY)
  return state


def gap(*states):
  one, other = (jax.tree.leaves(x.params["student"]) for x in states)
  pairs = zip(one, other, strict=True)
  return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


# A batch that a method prepares; an update of its own.
@pytest.mark.parametrize("name", ["mixup", "crossgrad", "ddaig", "mldg"])
def test_a_method_from_its_name_trains_otherwise_than_erm(name):
  assert gap(trained(name, 2), trained("erm", 2)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("mixup", {"alpha": 5.0}),
    ("crossgrad", {"epsilon": 9.0, "scaling": "sum"}),
    ("ddaig", {"perturbation": 2.0}),
    ("mldg", {"beta": 4.0}),
    ("domainmix", {"alpha": 0.1}),
  ],
)
def test_an_option_reaches_the_training(name, options):
  assert gap(trained(name, 2, **options), trained(name, 2)) > 1e-3


@pytest.mark.parametrize(
  "name", ["mixstyle", pytest.param("efdmix", marks=pytest.mark.slow)]
)
def test_mixed_styles_are_part_of_the_method(name):
  erm = trained("erm", student=Maps)
  mixed = trained(name, student=Maps, probability=1.0, alpha=9.0)
  assert gap(mixed, erm) > 1e-3
  never = trained(name, student=Maps, probability=0.0)
  assert gap(never, erm) < 1e-6


def test_adam_begins_anew_when_the_penalty_starts():
  def learner_of(optimizer, **options):
    method = methods.create("irm", anneal_steps=1, **options)
    if optimizer is not None:
      method = method._replace(optimizer=optimizer)
    return training.generalize(network(), method, optax.adam(0.1))

  def after(learner, **values):
    state = learner.init(KEY, BATCHED, **values)
    step = jax.jit(learner.step)
    for _ in range(2):
      state, _ = step(state, {}, BATCHED, KEY)
    return state

  whole = after(learner_of(None))
  count = optax.tree.get(whole.optimizer_state.optimizer_state, "count")
  assert count == 1
  kept = after(learner_of(lambda optimizer: optimizer))
  assert gap(whole, kept) > 1e-3
  # The restart follows the step that is given to `init`.
  later = after(learner_of(None), anneal_steps=5)
  assert optax.tree.get(later.optimizer_state.optimizer_state, "count") == 2
  assert later.optimizer_state.at == 5


@pytest.mark.slow
def test_ddaigs_student_sees_what_the_new_generator_moved():
  networks = {"student": network(), **OTHERS["ddaig"]}
  method = methods.create("ddaig", alpha=1.0, perturbation=1.0)

  def after(update):
    learner = training.generalize(
      networks, method._replace(update=update), optax.adam(0.1)
    )
    state = learner.init(KEY, BATCHED)
    return jax.jit(learner.step)(state, {}, BATCHED, KEY)[0]

  turns = {k: methods.Turn(k, (k,)) for k in ("generator", "student", "judge")}
  whole = after(method.update)
  others = (
    after(methods.alternate(*(turns[k] for k in order)))
    for order in (
      ("generator", "student", "judge"),
      ("student", "generator", "judge"),
    )
  )
  same, before = (gap(whole, other) for other in others)
  assert same < 1e-6
  assert before > 1e-4


@pytest.mark.slow
def test_a_method_of_images_takes_one_entry():
  learner = training.generalize(
    network(), methods.create("mixup"), optax.adam(0.1), on=("image", "weight")
  )
  with pytest.raises(ValueError, match="mixup changes the inputs of the batch"):
    learner.init(KEY, BATCHED)


@pytest.mark.slow
def test_crossgrads_images_are_those_of_the_whole_batch_on_two_devices():
  learner = training.generalize(
    {"student": network(), **OTHERS["crossgrad"]},
    methods.create("crossgrad", epsilon=30.0),
    optax.sgd(0.1),
  )
  batch = BATCHED | {"mask": BATCHED["mask"].at[0, 0].set(False)}
  state = learner.init(KEY, batch)

  def step(batch):
    return learner.step(state, {}, batch, KEY, axis_name="shards")[0]

  halves = jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2, 1)), batch)
  two = jax.jit(jax.vmap(step, axis_name="shards"))(halves)
  one, _ = jax.jit(learner.step)(state, {}, batch, KEY)
  for a, b in zip(
    jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True
  ):
    np.testing.assert_allclose(b[0], a, rtol=1e-4, atol=1e-5)
