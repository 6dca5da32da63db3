"""A step that sees two domains, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.nets import MLP
from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import select_supervised
from kdjax.objectives import stateless
from kdjax.ops import gather_batch
from kdjax.training import Variables
from kdjax.training import adaptation_loss
from kdjax.training import from_nnx
from kdjax.training import init_train_state
from kdjax.training import make_train_step
from kdjax.training import mean_metrics
from kdjax.training import parallelize

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)


def domain(seed, size, valid):
  return {
    "image": jax.random.normal(jax.random.key(seed), (size, *SHAPE)),
    "label": jnp.arange(size) % 3,
    "mask": jnp.arange(size) < valid,
  }


BATCH = {"source": domain(1, 16, 13), "target": domain(2, 8, 8)}


def centroid_distance(axis_name=None):
  """Draws the domains' mean embeddings together."""

  def init(key, source_spec, target_spec):
    assert target_spec is None
    return {"scale": jnp.ones(())}, {}

  def apply(params, state, source, target, batch, key):
    def mean(outputs, mask):
      rows = gather_batch(outputs.embedding, axis_name)
      weights = gather_batch(mask.astype(jnp.float32), axis_name)
      return weights @ rows / jnp.sum(weights)

    gap = mean(source, batch["mask"]) - mean(target, batch["target"]["mask"])
    value = params["scale"] * jnp.sum(gap**2)
    if axis_name is not None:
      value = jax.lax.pmean(value, axis_name)
    return value, state, {"gap": (value, jnp.ones(()))}

  return Objective(init, apply)


def build(network, axis_name=None, **options):
  task = stateless(
    optax.softmax_cross_entropy_with_integer_labels,
    select_supervised,
    axis_name=axis_name,
  )
  objective = combine(
    {
      "task": (1.0, task),
      "transfer": (0.5, centroid_distance(axis_name)),
    }
  )
  optimizer = optax.sgd(0.1)
  state = init_train_state(
    KEY, network, objective, optimizer, BATCH["source"]["image"]
  )
  loss_fn = adaptation_loss(
    network.forward, objective, axis_name=axis_name, **options
  )
  return (
    state,
    loss_fn,
    make_train_step(loss_fn, optimizer, axis_name=axis_name),
  )


class Normalized(nnx.Module):
  """The smallest network with batch statistics."""

  def __init__(self, axis_name, rngs):
    self.body = nnx.Linear(16, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, axis_name=axis_name, rngs=rngs)
    self.head = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, inputs):
    x = self.norm(self.body(inputs.reshape(len(inputs), -1)))
    return Outputs(self.head(x), {}, x)


@functools.cache
def normalized(axis_name=None):
  return from_nnx(nnx.jit(lambda: Normalized(axis_name, nnx.Rngs(0)))())


@functools.cache
def mlp():

  @nnx.jit
  def build():
    return MLP(3, input_shape=SHAPE, hidden=(8,), rngs=nnx.Rngs(0))

  return from_nnx(build())


def test_it_is_the_task_on_the_source_plus_the_gap_between_the_domains():
  network = mlp()
  state, loss_fn, step = build(network)

  def look(name):
    return network.forward(
      network.variables, BATCH[name]["image"], train=True, key=None
    )[0]

  source, target = look("source"), look("target")
  losses = optax.softmax_cross_entropy_with_integer_labels(
    source.logits, BATCH["source"]["label"]
  )
  gap = source.embedding[:13].mean(0) - target.embedding.mean(0)
  expected = losses[:13].mean() + 0.5 * jnp.sum(gap**2)
  loss, _ = jax.jit(loss_fn)(state.params, state.state, {}, BATCH, KEY)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)

  # The target moves the student, and the objective's parameters move too.
  before, step = state, jax.jit(step)
  for _ in range(20):
    state, metrics = step(state, {}, BATCH, KEY)
  assert mean_metrics(metrics)["loss"] < expected
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


def test_only_batch_statistics_tell_a_joint_pass_from_separate_ones():
  losses = {}
  for joint in (True, False):
    state, loss_fn, _ = build(mlp(), joint_forward=joint)
    losses[joint], _ = jax.jit(loss_fn)(
      state.params, state.state, {}, BATCH, KEY
    )
  np.testing.assert_allclose(losses[True], losses[False], rtol=1e-6)


def test_batch_statistics_are_joint_or_of_one_domain_after_the_other():
  seen = []

  def forward(variables, inputs, *, train, key):
    mean = jnp.mean(inputs)
    seen.append(len(inputs))
    outputs = Outputs(jnp.zeros((len(inputs), 3)), {}, inputs[:, 0, 0])
    return outputs, {"mean": (variables.state["mean"] + mean) / 2}

  means = [BATCH[name]["image"].mean() for name in ("source", "target")]
  both = jnp.concatenate([BATCH[n]["image"] for n in ("source", "target")])
  expected = {True: both.mean() / 2, False: (means[0] / 2 + means[1]) / 2}
  for joint, value in expected.items():
    loss_fn = adaptation_loss(forward, centroid_distance(), joint_forward=joint)
    params = {"student": {}, "objective": {"scale": jnp.ones(())}}
    state = {"student": {"mean": jnp.zeros(())}, "objective": {}}
    _, (state, _) = loss_fn(params, state, {}, BATCH, KEY)
    np.testing.assert_allclose(state["student"]["mean"], value, rtol=1e-5)
  assert seen == [24, 16, 8]


@pytest.mark.parametrize("joint", [True, False])
def test_eight_devices_take_the_same_step_as_one(joint):
  state, _, step = build(normalized(), joint_forward=joint)
  one, metrics = jax.jit(step)(state, {}, BATCH, KEY)
  state, _, step = build(
    normalized("batch"), axis_name="batch", joint_forward=joint
  )
  parallel = parallelize(step, "shard_map", split={"batch": 0})
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

  def apply(params, state, source, target, batch, key):
    assert set(source.views) == {"teacher"}
    assert set(target.views) == {"darker", "teacher"}
    parts = (
      source.views["teacher"].logits,
      target.views["teacher"].logits,
      target.views["darker"].logits,
    )
    return sum(map(jnp.sum, parts)), state, {}

  objective = Objective(lambda *_: ({}, {}), apply)
  loss_fn = adaptation_loss(
    forward,
    objective,
    forward,
    views={"darker": lambda key, batch: batch["image"] - 1},
  )
  zero = {"count": jnp.zeros(())}
  state = {"student": zero, "objective": {}}
  frozen = {"teacher": Variables(jnp.array(3.0), zero)}

  def loss(student, frozen):
    params = {"student": student, "objective": {}}
    return loss_fn(params, state, frozen, BATCH, KEY)

  (value, (moved, _)), gradients = jax.jit(
    jax.value_and_grad(loss, (0, 1), has_aux=True)
  )(np.float32(2.0), frozen)
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


def test_no_view_takes_the_teachers_name():
  views = {"teacher": lambda key, batch: batch["image"]}
  adaptation_loss(mlp().forward, centroid_distance(), views=views)
  with pytest.raises(ValueError, match="views has the name 'teacher'"):
    adaptation_loss(
      mlp().forward, centroid_distance(), mlp().forward, views=views
    )
