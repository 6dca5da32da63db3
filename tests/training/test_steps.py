"""What a step trains, what it leaves alone, and when it compiles."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import objectives
from kdjax.metrics import accuracy
from kdjax.metrics import agreement
from kdjax.nets import MLP
from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import select_logits
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.ops import kl_divergence
from kdjax.training import Model
from kdjax.training import TrainState
from kdjax.training import Variables
from kdjax.training import distillation_loss
from kdjax.training import from_nnx
from kdjax.training import init_train_state
from kdjax.training import make_eval_step
from kdjax.training import make_train_step
from kdjax.training import mean_metrics
from kdjax.training import parameter_ema

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


def distillation(student, optimizer, **options):
  teacher = network(1, TEACHER_WIDTH)
  objective = combine(
    {
      "ce": (0.1, stateless(cross_entropy, select_supervised)),
      "kd": (0.9, stateless(kl_divergence, temperature=4.0)),
    }
  )
  state = init_train_state(
    KEY, student, objective, optimizer, BATCH["image"], teacher=teacher
  )
  loss_fn = distillation_loss(
    student.forward, objective, teacher.forward, **options
  )
  return state, {"teacher": teacher.variables}, loss_fn


def supervised(forward, params, optimizer):
  objective = stateless(cross_entropy, select_supervised)
  model = Model(forward, Variables(params, {}))
  state = init_train_state(KEY, model, objective, optimizer, BATCH["image"])
  return state, make_train_step(
    distillation_loss(forward, objective), optimizer
  )


def linear(variables, inputs, *, train, key):
  logits = inputs.reshape(len(inputs), -1) @ variables.params
  return Outputs(logits, {}, None), variables.state


def widths(tree):
  return {n for leaf in jax.tree.leaves(tree) for n in jnp.shape(leaf)}


def test_the_teacher_is_frozen_and_nowhere_but_in_its_argument():
  optimizer = optax.adam(1e-3)
  state, frozen, loss_fn = distillation(network(0, 5), optimizer)
  step = make_train_step(loss_fn, optimizer)
  gradients, _ = jax.jit(jax.grad(loss_fn, argnums=2, has_aux=True))(
    state.params, state.state, frozen, BATCH, KEY
  )
  assert TEACHER_WIDTH in widths(gradients)
  assert not any(np.any(g) for g in jax.tree.leaves(gradients))
  jaxpr = jax.make_jaxpr(step)(state, frozen, BATCH, KEY)
  # A closure would show as a constant of the program.
  assert TEACHER_WIDTH not in widths(jaxpr.consts)
  new, _ = jax.jit(step)(state, frozen, BATCH, KEY)
  assert TEACHER_WIDTH not in widths(new)
  changed = jax.tree.map(
    lambda a, b: bool(np.any(a != b)), new.params, state.params
  )
  assert all(jax.tree.leaves(changed))


def test_hyperparameters_change_without_compiling_again():
  optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
  state, frozen, loss_fn = distillation(network(0, 5), optimizer)
  step = jax.jit(
    chex.assert_max_traces(make_train_step(loss_fn, optimizer), n=1)
  )
  losses = []
  for temperature in (1.0, 4.0, 20.0):
    new = optax.tree.set(
      state, temperature=jnp.float32(temperature), learning_rate=jnp.float32(0)
    )
    new, metrics = step(new, frozen, BATCH, KEY)
    losses.append(mean_metrics(metrics)["kd/loss"])
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    _, metrics = step(new, frozen, BATCH, KEY)
    assert mean_metrics(metrics)["kd/loss"] == losses[-1]
  assert losses[0] > losses[1] > losses[2] > 0


def test_supervised_training_is_an_objective_without_a_teacher():
  params = jnp.zeros((16, 3))
  state, step = supervised(linear, params, optax.sgd(0.5))
  state, metrics = jax.jit(step)(state, {}, BATCH, KEY)

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
  optimizer = optax.adam(1e-2)
  state, frozen, loss_fn = distillation(network(0, 5), optimizer)
  step = jax.jit(make_train_step(loss_fn, optimizer))
  padding = ~np.asarray(BATCH["mask"])
  other = BATCH | {
    "image": np.where(padding[:, None, None, None], 7, BATCH["image"]),
    "label": np.where(padding, 0, BATCH["label"]),
  }
  results = [step(state, frozen, batch, KEY) for batch in (BATCH, other)]
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_student_and_teacher_see_the_same_augmented_view():
  seen = {}

  def spy(name):
    def forward(variables, inputs, *, train, key):
      seen[name] = inputs, train
      return linear(variables, inputs, train=train, key=key)

    return forward

  def augment(key, images):
    return images + jax.random.normal(key, images.shape)

  loss_fn = distillation_loss(
    spy("student"), stateless(kl_divergence), spy("teacher"), augment=augment
  )
  params = {"student": jnp.ones((16, 3)), "objective": {}}
  state = {"student": {}, "objective": {}}
  frozen = {"teacher": Variables(jnp.ones((16, 3)), {})}

  @jax.jit
  def views(batch):
    loss_fn(params, state, frozen, batch, KEY)
    return seen["student"][0], seen["teacher"][0]

  student, teacher = views(BATCH)
  np.testing.assert_array_equal(student, teacher)
  assert np.all(np.asarray(student) != np.asarray(BATCH["image"]))
  assert (seen["student"][1], seen["teacher"][1]) == (True, False)


def test_one_key_serves_every_step():
  def noise(variables, inputs, *, train, key):
    if key is None:
      key = KEY
    outputs, state = linear(variables, inputs, train=train, key=key)
    logits = outputs.logits + jax.random.normal(key, outputs.logits.shape)
    return outputs._replace(logits=logits), state

  state, step = supervised(noise, jnp.zeros((16, 3)), optax.sgd(0.0))
  step = jax.jit(step)
  state, first = step(state, {}, BATCH, KEY)
  _, second = step(state, {}, BATCH, KEY)
  assert first["loss"][0] != second["loss"][0]


@pytest.mark.parametrize("half_parameters", [False, True])
def test_bfloat16_trains_with_a_float32_loss(half_parameters):
  student = network(0, 5, dtype=jnp.bfloat16)
  if half_parameters:
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), student.variables)
    student = student._replace(variables=half)
  optimizer = optax.chain(optax.sgd(0.5), parameter_ema(0.5))
  state, frozen, loss_fn = distillation(student, optimizer)
  dtypes = jax.tree.map(lambda x: x.dtype, state)
  step, losses = jax.jit(make_train_step(loss_fn, optimizer)), []
  for _ in range(5):
    state, metrics = step(state, frozen, BATCH, KEY)
    losses.append(float(mean_metrics(metrics)["loss"]))
  assert jax.tree.map(lambda x: x.dtype, state) == dtypes
  assert metrics["kd/loss"][0].dtype == jnp.float32
  assert losses[-1] < losses[0]


def test_the_state_may_be_donated():
  student = network(0, 5)
  optimizer = optax.chain(optax.adam(1e-3), parameter_ema(0.9))
  state, frozen, loss_fn = distillation(student, optimizer)
  step = jax.jit(make_train_step(loss_fn, optimizer), donate_argnums=0)
  for _ in range(2):
    state, _ = step(state, frozen, BATCH, KEY)
  assert not any(x.is_deleted() for x in jax.tree.leaves(student.variables))
  assert state.step == 2


def test_evaluation_counts_what_the_mask_says():
  student, teacher = network(0, 5), network(1, TEACHER_WIDTH)
  metrics = {
    "accuracy": (accuracy, select_supervised),
    "agreement": (agreement, select_logits),
  }
  evaluate = jax.jit(make_eval_step(student.forward, metrics, teacher.forward))
  frozen = {"teacher": teacher.variables}
  result = evaluate(student.variables, frozen, BATCH)
  predictions = [
    np.argmax(
      m.forward(m.variables, BATCH["image"], train=False, key=None)[0].logits,
      axis=-1,
    )[:6]
    for m in (student, teacher)
  ]
  labels = np.asarray(BATCH["label"][:6])
  assert result["accuracy"] == (np.sum(predictions[0] == labels), 6)
  assert result["agreement"] == (np.sum(predictions[0] == predictions[1]), 6)
  empty = BATCH | {"mask": np.zeros(8, bool)}
  assert mean_metrics(evaluate(student.variables, frozen, empty)) == {
    "accuracy": 0,
    "agreement": 0,
  }


def test_views_reach_student_and_teacher_with_the_key_of_the_augmentation():
  """A student that counts its calls sees image after image."""

  def student(variables, images, *, train, key):
    count = variables.state + 1
    logits = variables.params * images + 0.0 * count
    return Outputs(logits, {"count": count}, None), count

  def teacher(variables, images, *, train, key):
    return Outputs(10 * images, {}, None), variables.state

  def apply(params, state, student, teacher, batch, key):
    seen = {
      "weak": student.logits,
      "strong": student.views["strong"].logits,
      "taught": teacher.views["strong"].logits,
      "calls": student.views["strong"].features["count"],
    }
    pairs = {name: (value, jnp.ones(3)) for name, value in seen.items()}
    return jnp.sum(student.logits), state, pairs

  def augment(key, images):
    return images + jax.random.uniform(key)

  loss_fn = distillation_loss(
    student,
    Objective(lambda *_: ({}, {}), apply),
    teacher,
    augment=augment,
    views={"strong": lambda key, batch: -augment(key, batch["image"])},
  )
  images = np.arange(3, dtype=np.float32)
  params = {"student": np.float32(2.0), "objective": {}}
  state = {"student": np.float32(0.0), "objective": {}}
  frozen = {"teacher": Variables({}, {})}
  _, (state, seen) = jax.jit(loss_fn)(
    params, state, frozen, {"image": images}, jax.random.key(0)
  )
  seen = {name: value for name, (value, _) in seen.items()}
  np.testing.assert_array_equal(seen["strong"], -np.asarray(seen["weak"]))
  np.testing.assert_array_equal(seen["taught"], -5 * np.asarray(seen["weak"]))
  assert seen["calls"] == state["student"] == 2


@pytest.mark.parametrize(
  "objective",
  [
    objectives.crd(20, negatives=4, dim=5),
    objectives.factor_transfer(),
    objectives.bi_tuning(3, dim=4, size=4),
  ],
)
def test_each_array_of_a_new_state_is_its_own(objective):
  """Or it would be donated twice."""
  maps, dim = jnp.ones((4, 4, 4, 2)), 6

  def forward(variables, x, *, train, key):
    head = variables.params, jnp.zeros(3)
    embedding = jnp.ones((len(x), dim))
    logits = embedding @ variables.params
    return Outputs(logits, {"f": maps}, embedding, classifier=head), {}

  model = Model(forward, Variables(jnp.ones((dim, 3)), {}))
  state = init_train_state(
    jax.random.key(0), model, objective, optax.sgd(0.1), maps, teacher=model
  )
  leaves = jax.tree.leaves((state.params, state.state))
  places = {x.unsafe_buffer_pointer() for x in leaves if x.size}
  assert len(places) == sum(x.size > 0 for x in leaves)
