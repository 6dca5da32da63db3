"""A learner that sees two domains, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.methods import Objective, combine, stateless
from kdjax.nets import MLP, Outputs
from kdjax.ops import gather_batch
from kdjax.training import (
  Model,
  Variables,
  adapt,
  from_nnx,
  mean_metrics,
  parallelize,
)

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
SGD = optax.sgd(0.1)


def domain(seed, size, valid):
  return {
    "image": jax.random.normal(jax.random.key(seed), (size, *SHAPE)),
    "label": jnp.arange(size) % 3,
    "mask": jnp.arange(size) < valid,
  }


BATCH = {"source": domain(1, 16, 13), "target": domain(2, 8, 8)}


def centroid_distance():
  """Draws the domains' mean embeddings together."""

  def init(key, specs):
    assert set(specs) == {"source", "target"}
    return {"scale": jnp.ones(())}, {}

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    def mean(role):
      rows = gather_batch(outputs[role].embedding, axis_name)
      weights = batch[role]["mask"].astype(jnp.float32)
      weights = gather_batch(weights, axis_name)
      return weights @ rows / jnp.sum(weights)

    gap = mean("source") - mean("target")
    value = params["scale"] * jnp.sum(gap**2)
    if axis_name is not None:
      value = jax.lax.pmean(value, axis_name)
    return value, state, {"gap": (value, jnp.ones(()))}

  return Objective(init, apply)


def task(source_logits, source_labels):
  return optax.softmax_cross_entropy_with_integer_labels(
    source_logits, source_labels
  )


def build(network, **options):
  objective = combine(
    {
      "task": (1.0, stateless(task)),
      "transfer": (0.5, centroid_distance()),
    }
  )
  learner = adapt(network, objective, SGD, **options)
  return learner, learner.init(KEY, BATCH)


class Normalized(nnx.Module):
  """The smallest network with batch statistics."""

  def __init__(self, rngs):
    self.body = nnx.Linear(16, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.head = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, inputs):
    x = self.norm(self.body(inputs.reshape(len(inputs), -1)))
    return Outputs(self.head(x), {}, x)


@functools.cache
def normalized():
  return from_nnx(nnx.jit(lambda: Normalized(nnx.Rngs(0)))())


@functools.cache
def mlp():

  @nnx.jit
  def build():
    return MLP(3, input_shape=SHAPE, hidden=(8,), rngs=nnx.Rngs(0))

  return from_nnx(build())


@pytest.mark.slow
def test_it_is_the_task_on_the_source_plus_the_gap_between_the_domains():
  network = mlp()
  learner, state = build(network)

  def look(name):
    return network.forward(
      network.variables, BATCH[name]["image"], train=True, key=None
    )[0]

  source, target = look("source"), look("target")
  losses = task(source.logits, BATCH["source"]["label"])
  gap = source.embedding[:13].mean(0) - target.embedding.mean(0)
  expected = losses[:13].mean() + 0.5 * jnp.sum(gap**2)
  loss_fn = learner.loss_fn
  loss, _ = jax.jit(loss_fn)(state.params, state.state, {}, BATCH, KEY)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)

  # The target moves the student, and the objective's parameters move too.
  before, step = state, jax.jit(learner.step)
  for _ in range(20):
    state, metrics = step(state, {}, BATCH, KEY)
  assert mean_metrics(metrics)["loss"] < expected
  assert metrics["loss"][1] == 13
  changed = jax.tree.map(
    lambda a, b: bool(jnp.any(a != b)), state.params, before.params
  )
  assert all(jax.tree.leaves(changed))

  def loss_of(images):
    return loss_fn(
      before.params,
      before.state,
      {},
      BATCH | {"target": BATCH["target"] | {"image": images}},
      KEY,
    )[0]

  gradient = jax.jit(jax.grad(loss_of))(BATCH["target"]["image"])
  assert np.all(np.any(gradient, axis=(1, 2, 3)))


@pytest.mark.slow
def test_it_is_evaluated_on_batches_of_one_domain():
  learner, state = build(mlp())
  for batch, count in ((BATCH["source"], 13), (BATCH["target"], 8)):
    seen = jax.jit(learner.evaluate)(state, {}, batch)
    assert {k: v[1] for k, v in seen.items()} == {
      "accuracy": count,
      "cross_entropy": count,
    }


def test_only_batch_statistics_tell_a_joint_pass_from_separate_ones():
  losses = {}
  for joint in (True, False):
    learner, state = build(mlp(), joint=joint)
    losses[joint], _ = jax.jit(learner.loss_fn)(
      state.params, state.state, {}, BATCH, KEY
    )
  np.testing.assert_allclose(losses[True], losses[False], rtol=1e-6)


@pytest.mark.slow
def test_batch_statistics_are_joint_or_of_one_domain_after_the_other():
  seen = []

  def forward(variables, inputs, *, train, key):
    mean = jnp.mean(inputs)
    seen.append(len(inputs))
    outputs = Outputs(jnp.zeros((len(inputs), 3)), {}, inputs[:, 0, 0])
    return outputs, {"mean": (variables.state["mean"] + mean) / 2}

  student = Model(forward, Variables({}, {"mean": jnp.zeros(())}))
  means = [BATCH[name]["image"].mean() for name in ("source", "target")]
  both = jnp.concatenate([BATCH[n]["image"] for n in ("source", "target")])
  expected = {True: both.mean() / 2, False: (means[0] / 2 + means[1]) / 2}
  for joint, value in expected.items():
    learner = adapt(student, centroid_distance(), SGD, joint=joint)
    params = {"student": {}, "objective": {"scale": jnp.ones(())}}
    state = {"student": {"mean": jnp.zeros(())}, "objective": {}}
    _, (state, _) = learner.loss_fn(params, state, {}, BATCH, KEY)
    np.testing.assert_allclose(state["student"]["mean"], value, rtol=1e-5)
  assert seen == [24, 16, 8]


@pytest.mark.parametrize(
  "joint", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_eight_devices_take_the_same_step_as_one(joint):
  learner, state = build(normalized(), joint=joint)
  one, metrics = jax.jit(learner.step)(state, {}, BATCH, KEY)
  parallel = parallelize(learner, "shard_map").step
  many, metrics_many = parallel(state, {}, BATCH, KEY)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    many,
    one,
  )
  np.testing.assert_allclose(
    mean_metrics(metrics_many)["loss"], mean_metrics(metrics)["loss"], rtol=1e-5
  )


def test_views_of_the_target_follow_and_the_teacher_sees_both_domains():
  seen = []

  def forward(variables, inputs, *, train, key):
    seen.append((len(inputs), train))
    values = variables.params * inputs[:, 0, 0]
    count = variables.state["count"] + 1
    return Outputs(values, {}, values), {"count": count}

  def apply(params, state, outputs, batch, key, *, axis_name=None):
    assert set(outputs) == {
      "source",
      "target",
      "target_darker",
      "source_teacher",
      "target_teacher",
    }
    parts = [
      outputs[role].logits
      for role in ("source_teacher", "target_teacher", "target_darker")
    ]
    return sum(map(jnp.sum, parts)), state, {}

  zero = {"count": jnp.zeros(())}
  learner = adapt(
    Model(forward, Variables(np.float32(2.0), zero)),
    Objective(lambda *_: ({}, {}), apply),
    SGD,
    teacher=Model(forward, Variables(jnp.array(3.0), zero)),
    views={"darker": lambda key, batch: batch["image"] - 1},
  )
  state = {"student": zero, "objective": {}}

  def loss(student, frozen):
    params = {"student": student, "objective": {}}
    return learner.loss_fn(params, state, frozen, BATCH, KEY)

  (value, (moved, _)), gradients = jax.jit(
    jax.value_and_grad(loss, (0, 1), has_aux=True)
  )(np.float32(2.0), learner.frozen)
  source, target = (
    BATCH[name]["image"][:, 0, 0].sum() for name in ("source", "target")
  )
  np.testing.assert_allclose(
    value, 3 * (source + target) + 2 * (target - 8), rtol=1e-4
  )
  np.testing.assert_allclose(gradients[0], target - 8, rtol=1e-4)
  assert gradients[1]["teacher"].params == 0
  assert seen == [(24, True), (8, True), (16, False), (8, False)]
  assert moved["student"]["count"] == 2


def test_a_method_without_the_source_sees_nothing_of_it():
  """Not even its batch statistics."""

  def loss(target_embedding):
    return jnp.sum(target_embedding**2, -1)

  moved = []
  for source in (BATCH["source"], domain(9, 16, 16)):
    learner = adapt(normalized(), loss, SGD, domains=("target",))
    batch = BATCH | {"source": source}
    state = learner.init(KEY, batch)
    moved.append(jax.jit(learner.step)(state, {}, batch, KEY))
  jax.tree.map(np.testing.assert_array_equal, *moved)


@pytest.mark.parametrize(
  ("batch", "words"),
  [
    (
      BATCH["source"],
      r"batch has \['image', 'label', 'mask'\]; expected 'source' too",
    ),
    (
      {"source": BATCH["source"]},
      r"batch has \['source'\]; expected 'target' too",
    ),
    (
      {
        "source": BATCH["source"],
        "target": BATCH["target"] | {"image": jnp.ones((8, 2, 2, 1))},
      },
      r"inputs of 'target' have the shape \(2, 2, 1\) behind the batch",
    ),
  ],
)
def test_two_domains_say_what_they_lack(batch, words):
  learner = adapt(mlp(), task, SGD, domains=("source", "target"))
  with pytest.raises(ValueError, match=words):
    learner.init(KEY, batch)
