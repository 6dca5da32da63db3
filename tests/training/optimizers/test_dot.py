"""DOT moves as the authors' optimizer, and on 8 devices as on one."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.distillation import soft_target_loss
from kdjax.methods import Objective, stateless
from kdjax.nets import Outputs
from kdjax.training import (
  Model,
  Variables,
  distill,
  dot,
  dot_gradients,
  dot_objective,
  make_train_step,
  parallelize,
)

KEY = jax.random.key(0)
# Recorded from mdistiller's engine/dot.py (a08d46f) under PyTorch in float64:
# parameters with both gradients, with the task's only, with the other only.
GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "dot.npz"
NAMES = "shared", "task", "distillation"


@pytest.mark.parametrize("tag", ["plain", "decayed"])
def test_the_trajectory_equals_the_published_code(tag):
  with jax.enable_x64(True), np.load(GOLDEN) as arrays:
    decay = float(arrays["weight_decay"]) if tag == "decayed" else 0.0
    optimizer = dot(
      float(arrays["learning_rate"]),
      momentum=float(arrays["momentum"]),
      delta=float(arrays["delta"]),
      weight_decay=decay,
    )
    params = {name: jnp.asarray(arrays[f"in:{name}"]) for name in NAMES}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(len(arrays["plain:task"])):
      task, distillation = (
        {k: arrays.get(f"{kind}_gradient:{k}", {i: None})[i] for k in NAMES}
        for kind in ("task", "distillation")
      )
      updates, state = update(
        task, state, params, distillation_gradients=distillation
      )
      params = optax.apply_updates(params, updates)
      for name, value in params.items():
        # The authors forget to decay these at the first step.
        if (name, tag) != ("distillation", "decayed"):
          expected = arrays[f"{tag}:{name}"][i]
          np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_what_one_loss_does_not_reach_has_the_plain_momentum():
  """A gradient of 0 throughout is none, to the task's buffer."""
  optimizer = dot(0.1)
  update = jax.jit(optimizer.update)
  task, params = {"x": np.float32([1.0, -2.0])}, {"x": np.zeros(2, np.float32)}
  moves = []
  for other in (None, np.zeros(2, np.float32)):
    state = optimizer.init(params)
    for _ in range(3):
      updates, state = update(
        task, state, params, distillation_gradients={"x": other}
      )
    moves.append(updates["x"])
  np.testing.assert_array_equal(*moves)
  np.testing.assert_allclose(moves[0], -0.1 * 2.71 * task["x"], rtol=1e-6)


def test_paper_in_numpy():
  rng = np.random.default_rng(0)
  task, distilled = rng.normal(size=(2, 5, 3))
  theta, v_task, v_distilled = rng.normal(size=3), np.zeros(3), np.zeros(3)
  optimizer = dot(
    lambda step: 0.1 / (1 + step), momentum=0.8, delta=0.1, weight_decay=0.3
  )
  params = jnp.asarray(theta, jnp.float32)
  state = optimizer.init(params)
  for i in range(5):
    updates, state = optimizer.update(
      jnp.asarray(task[i], jnp.float32),
      state,
      params,
      distillation_gradients=jnp.asarray(distilled[i], jnp.float32),
    )
    params = optax.apply_updates(params, updates)
    v_task = (0.8 - 0.1) * v_task + task[i] + 0.3 * theta
    v_distilled = (0.8 + 0.1) * v_distilled + distilled[i]
    theta = theta - 0.1 / (1 + i) * (v_task + v_distilled)
    np.testing.assert_allclose(params, theta, rtol=1e-5)


def test_no_delta_is_momentum_on_the_sum_and_deltas_vmap():
  gradients = jax.random.normal(KEY, (4, 2, 3))

  def run(delta):
    optimizer = dot(0.1, delta=delta, weight_decay=0.5)
    params = jnp.ones(3)
    state = optimizer.init(params)
    for task, distilled in gradients:
      updates, state = optimizer.update(
        task, state, params, distillation_gradients=distilled
      )
      params = optax.apply_updates(params, updates)
    return params

  sgd = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, 0.9))
  expected = jnp.ones(3)
  state = sgd.init(expected)
  for pair in gradients:
    updates, state = sgd.update(pair.sum(0), state, expected)
    expected = optax.apply_updates(expected, updates)
  first, second = jax.jit(jax.vmap(run))(jnp.array([0.0, 0.075]))
  np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
  assert np.abs(second - expected).max() > 1e-3


def test_errors():
  with pytest.raises(ValueError, match=r"momentum \+ delta is 1.1; expected"):
    dot(0.1, delta=0.2)
  optimizer, one = dot(0.1), jnp.ones(())
  state = optimizer.init(one)
  with pytest.raises(ValueError, match="distillation_gradients is None"):
    optimizer.update(one, state, one)
  with pytest.raises(ValueError, match="params is None"):
    optimizer.update(one, state, distillation_gradients=one)


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


def training(optimizer, objective=None, **options):
  student, teacher = (
    Model(linear, Variables(jax.random.normal(jax.random.key(i), (5, 3)), {}))
    for i in (1, 2)
  )
  if objective is None:
    objective = dot_objective(stateless(supervised), scaled())
  return distill(student, teacher, objective, optimizer, **options)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap", "shard_map"])
def test_step_takes_both_gradients_on_any_number_of_devices(mode):
  optimizer = dot(0.1, weight_decay=0.1)
  learner = training(optimizer, rule=dot_gradients())
  state = learner.init(KEY, BATCH)

  def gradient(params, position):
    return jax.grad(
      lambda p: learner.loss_fn(p, state.state, learner.frozen, BATCH, KEY)[0][
        position
      ]
    )(params)

  @jax.jit
  def expected(params):
    task, distilled = (gradient(params, i) for i in range(2))
    task["objective"]["distillation"] = None
    updates, moved = optimizer.update(
      task, state.optimizer_state, params, distillation_gradients=distilled
    )
    return optax.apply_updates(params, updates), moved

  expected = expected(state.params)
  step = parallelize(learner, mode).step
  moved, metrics = step(state, learner.frozen, BATCH, KEY)
  actual = moved.params, moved.optimizer_state
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  total, count = metrics["loss"]
  parts = metrics["task/loss"][0] + metrics["distillation/loss"][0]
  np.testing.assert_allclose(total, parts, rtol=1e-5)
  assert count == 11
  assert moved.step == 1


def test_two_gradients_need_dot():
  """Another optimizer would leave the distillation out without a word."""
  one = stateless(supervised)
  rule = dot_gradients()
  for learner, words in (
    (training(optax.adam(0.1), rule=rule), "no two momenta; expected dot"),
    (
      training(dot(0.1), one, rule=rule),
      r"shape \(\); expected \[task, distilla",
    ),
    (training(dot(0.1)), r"\(2,\); expected a scalar. Several losses need a r"),
  ):
    state = learner.init(KEY, BATCH)
    with pytest.raises(ValueError, match=words):
      jax.eval_shape(learner.step, state, learner.frozen, BATCH, KEY)


@pytest.mark.slow
def test_a_chain_with_dot_will_do():
  optimizer = optax.chain(optax.clip(1e3), dot(0.1))
  plain = training(dot(0.1), rule=dot_gradients())
  chained = training(optimizer, rule=dot_gradients())
  by_hand = make_train_step(chained.loss_fn, optimizer, rule=dot_gradients())
  moved = [
    step(learner.init(KEY, BATCH), learner.frozen, BATCH, KEY)[0].params
    for learner, step in (
      (plain, plain.step),
      (chained, chained.step),
      (chained, by_hand),
    )
  ]
  for other in moved[1:]:
    jax.tree.map(np.testing.assert_array_equal, other, moved[0])
