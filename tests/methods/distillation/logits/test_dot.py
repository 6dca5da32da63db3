"""DOT moves as the authors' optimizer, and on 8 devices as on one."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, training
from kdjax.distillation import soft_target_loss
from kdjax.methods import Objective, stateless
from kdjax.methods.distillation.logits._dot import apart, two_momenta
from kdjax.nets import Outputs

KEY = jax.random.key(0)
# Recorded from mdistiller's engine/dot.py (a08d46f) under PyTorch in float64:
# parameters with both gradients, with the task's only, with the other only.
GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "dot.npz"
NAMES = "shared", "task", "distillation"


def moves(update, optimizer, params, gradients):
  """Parameters after each pair of gradients of the task and the teacher."""

  def step(carry, gradients):
    params, state = carry

    def loss(params, batch, *, part=None, state=None):
      del batch, state
      assert part == ("task", "distillation")
      products = [optax.tree.vdot(gradients[name], params) for name in part]
      return jnp.stack(products), ({}, {})

    _, updates, state = update.apply(loss, params, None, KEY, state, taken)
    params = optax.apply_updates(params, updates)
    return (params, state), params

  def with_seen(updates, state, params=None, *, seen=None):
    del seen
    return optimizer.update(updates, state, params)

  taken = optax.GradientTransformationExtraArgs(optimizer.init, with_seen)
  start = params, update.init(params, taken)
  return jax.lax.scan(step, start, gradients)[1]


@pytest.mark.parametrize("tag", ["plain", "decayed"])
def test_the_trajectory_equals_the_published_code(tag):
  with jax.enable_x64(True), np.load(GOLDEN) as arrays:
    decay = float(arrays["weight_decay"]) if tag == "decayed" else 0.0
    update = two_momenta(
      float(arrays["momentum"]), float(arrays["delta"]), decay
    )
    params = {name: jnp.asarray(arrays[f"in:{name}"]) for name in NAMES}
    count = len(arrays["plain:task"])

    def gradient(kind, name):
      none = np.zeros((count, *params[name].shape))
      return arrays.get(f"{kind}_gradient:{name}", none)

    gradients = {
      kind: {name: gradient(kind, name) for name in NAMES}
      for kind in ("task", "distillation")
    }
    optimizer = optax.sgd(float(arrays["learning_rate"]))
    got = jax.jit(lambda x: moves(update, optimizer, params, x))(gradients)
    for name in NAMES:
      # The authors forget to decay these at the first step.
      if (name, tag) != ("distillation", "decayed"):
        expected = arrays[f"{tag}:{name}"]
        np.testing.assert_allclose(got[name], expected, rtol=1e-12)


def test_paper_in_numpy():
  rng = np.random.default_rng(0)
  task, distilled = rng.normal(size=(2, 5, 3))
  theta, v_task, v_distilled = rng.normal(size=3), np.zeros(3), np.zeros(3)
  optimizer = optax.sgd(lambda step: 0.1 / (1 + step))
  got = moves(
    two_momenta(0.8, 0.1, 0.3),
    optimizer,
    jnp.asarray(theta, jnp.float32),
    jax.tree.map(jnp.float32, {"task": task, "distillation": distilled}),
  )
  for i in range(5):
    v_task = (0.8 - 0.1) * v_task + task[i] + 0.3 * theta
    v_distilled = (0.8 + 0.1) * v_distilled + distilled[i]
    theta = theta - 0.1 / (1 + i) * (v_task + v_distilled)
    np.testing.assert_allclose(got[i], theta, rtol=1e-5)


def test_no_delta_is_momentum_on_the_sum_and_deltas_vmap():
  gradients = jax.random.normal(KEY, (2, 4, 3))
  pairs = dict(zip(("task", "distillation"), gradients, strict=True))

  def run(delta):
    update = two_momenta(0.9, delta, 0.5)
    return moves(update, optax.sgd(0.1), jnp.ones(3), pairs)[-1]

  sgd = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, 0.9))
  expected = jnp.ones(3)
  state = sgd.init(expected)
  for gradient in gradients.sum(0):
    updates, state = sgd.update(gradient, state, expected)
    expected = optax.apply_updates(expected, updates)
  first, second = jax.jit(jax.vmap(run))(jnp.array([0.0, 0.075]))
  np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
  assert np.abs(second - expected).max() > 1e-3


def test_what_the_teacher_does_not_reach_has_the_plain_momentum():
  task = jnp.tile(jnp.array([1.0, -2.0]), (3, 1))
  pairs = {"task": task, "distillation": jnp.zeros_like(task)}
  got = moves(two_momenta(), optax.sgd(1.0), jnp.zeros(2), pairs)
  np.testing.assert_allclose(got[2] - got[1], -2.71 * task[0], rtol=1e-6)


def test_momenta_have_a_range():
  with pytest.raises(ValueError, match=r"momentum \+ delta is 1.1; expected"):
    methods.create("dot", delta=0.2)


def linear(variables, x, *, train, key):
  return Outputs(x @ variables.params, {}, None), variables.state


def scaled():
  """A distillation with a parameter of its own."""
  kd = stateless(soft_target_loss)

  def apply(params, state, outputs, *rest, axis_name=None):
    student = outputs["student"]
    student = student._replace(logits=params * student.logits)
    outputs = {**outputs, "student": student}
    return kd.apply({}, state, outputs, *rest, axis_name=axis_name)

  return Objective(
    lambda *specs: (jnp.array(1.5), kd.init(*specs)[1]), apply, None
  )


def supervised(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


BATCH = {
  "image": jax.random.normal(jax.random.key(3), (16, 5)),
  "label": jnp.arange(16) % 3,
  "mask": jnp.arange(16) < 11,
}


def learner_of(method, optimizer):
  student, teacher = (
    training.Model(
      linear,
      training.Variables(jax.random.normal(jax.random.key(i), (5, 3)), {}),
    )
    for i in (1, 2)
  )
  return training.distill(student, teacher, method, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_step_takes_both_gradients_on_any_number_of_devices(mode):
  both = apart((1.0, stateless(supervised)), (1.0, scaled()))
  objective = methods.combine({"dot": (1.0, both)})
  own = methods.create("dot")._replace(
    objective=objective, update=two_momenta(weight_decay=0.1)
  )
  learner = learner_of(own, optax.sgd(0.1))
  state = learner.init(KEY, BATCH)

  @jax.jit
  def expected(params):
    def loss(params, part):
      return learner.loss_fn(
        params, state.state, learner.frozen, BATCH, KEY, part=part
      )[0]

    task, distilled = (
      jax.grad(loss)(params, part) for part in ("task", "distillation")
    )
    # At the first step no momentum counts.
    return jax.tree.map(
      lambda x, a, b: x - 0.1 * (a + b + 0.1 * x), params, task, distilled
    )

  step = training.parallelize(learner, mode).step
  moved, metrics = step(state, learner.frozen, BATCH, KEY)
  second, _ = step(moved, learner.frozen, BATCH, KEY)
  wanted = expected(state.params)
  for a, b in zip(*map(jax.tree.leaves, (moved.params, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  assert second.params["objective"]["dot"]["distillation"] != 1.5
  total, count = metrics["loss"]
  parts = sum(
    metrics[f"dot/{name}/loss"][0] for name in ("task", "distillation")
  )
  np.testing.assert_allclose(total, parts, rtol=1e-5)
  assert count == 11
  assert moved.step == 1


@pytest.mark.slow
def test_the_whole_method_without_delta_is_kd_with_momentum():
  dot = learner_of(methods.create("dot", delta=0.0), optax.sgd(0.1))
  kd = learner_of(methods.create("kd"), optax.sgd(0.1, 0.9))
  moved = []
  for learner in (dot, kd):
    state, step = learner.init(KEY, BATCH), jax.jit(learner.step)
    for _ in range(3):
      state, _ = step(state, learner.frozen, BATCH, KEY)
    moved.append(state.params["student"])
  np.testing.assert_allclose(*moved, rtol=1e-5)
  changed = dot.init(KEY, BATCH, delta=0.05)
  assert changed.optimizer_state["delta"] == np.float32(0.05)


@pytest.mark.slow
def test_the_networks_run_forward_once():
  def products(method):
    learner = learner_of(method, optax.sgd(0.1))
    batch = BATCH | {"image": jnp.ones((16, 5))}
    state = learner.init(KEY, batch)
    step = jax.jit(learner.step).lower(state, learner.frozen, batch, KEY)
    return step.compile().as_text().count(" dot(")

  # A forward of each network, and a gradient of each loss.
  assert products(methods.create("kd")) == 3
  assert products(methods.create("dot")) == 4
