"""The learner of continual learning: a past, and parts that are replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.continual import reservoir_init, reservoir_sample, reservoir_update
from kdjax.methods import create
from kdjax.training import Variables, continue_on

KEY = jax.random.key(0)
PART = {
  "x": jax.random.normal(jax.random.key(1), (4, 3)),
  "label": jnp.arange(4) % 2,
  "mask": jnp.arange(4) < 3,
}


def network(seed):
  return nnx.Linear(3, 2, rngs=nnx.Rngs(seed))


@pytest.mark.slow
def test_an_empty_buffer_adds_nothing_and_a_full_one_does():
  learner = continue_on(
    network(0),
    create("der_plus_plus"),
    optax.sgd(0.1),
    on="x",
  )
  stored = {"x": PART["x"], "label": PART["label"]}
  stored["stored_logits"] = 1 + network(0)(PART["x"])
  buffer = reservoir_init(stored, size=6)

  sample = jax.jit(reservoir_sample, static_argnums=2)

  def batch_of(buffer):
    draws = {}
    for i, name in enumerate(("replay", "second_replay")):
      rows, mask = sample(buffer, jax.random.key(i), 6)
      draws[name] = rows | {"mask": mask}
    return PART | draws

  state = learner.init(KEY, batch_of(buffer))
  step = jax.jit(learner.step)
  alone = continue_on(network(0), create("sequential"), optax.sgd(0.1), on="x")
  expected, _ = jax.jit(alone.step)(alone.init(KEY, PART), {}, PART, KEY)
  empty, metrics = step(state, learner.frozen, batch_of(buffer), KEY)
  np.testing.assert_allclose(
    empty.params["student"]["kernel"],
    expected.params["student"]["kernel"],
    rtol=1e-6,
  )
  assert metrics["der_plus_plus/logits/loss"][0] == 0
  buffer = jax.jit(reservoir_update)(buffer, KEY, stored)
  _, metrics = step(state, learner.frozen, batch_of(buffer), KEY)
  total, count = metrics["der_plus_plus/logits/loss"]
  # Stored logits are one off, each; the mask is the buffer's own.
  assert count == 4
  np.testing.assert_allclose(total / count, 1.0, rtol=1e-5)
  ce, weight = (
    metrics["ce/loss"][0] / metrics["ce/loss"][1],
    metrics["der_plus_plus/labels/loss"],
  )
  np.testing.assert_allclose(
    metrics["loss"][0] / metrics["loss"][1],
    ce + 0.2 + weight[0] / weight[1],
    rtol=1e-5,
  )


def test_the_student_takes_the_place_of_the_past_without_recompilation():
  learner = continue_on(
    network(0), create("task_lwf"), optax.sgd(0.1), past=network(1), on="x"
  )
  state = learner.init(KEY, PART, past_classes=jnp.array([1.0, 0.0]))
  step = jax.jit(learner.step)
  state, _ = step(state, learner.frozen, PART, KEY)
  past = Variables(state.params["student"], state.state["student"])
  objective = state.state["objective"]["objectives"]["task_lwf"]
  np.testing.assert_array_equal(objective["past_classes"], [1, 0])
  _, metrics = step(state, {"past": past}, PART, KEY)
  assert step._cache_size() == 1
  # One past class alone has the probability 1.
  np.testing.assert_allclose(metrics["task_lwf/loss"][0], 0, atol=1e-6)


def test_importance_holds_parameters_in_place():
  importance = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
  objective = create("ewc", weight=2.0, importance=importance)
  learner = continue_on(
    network(0), objective, optax.sgd(0.0), past=network(1), on="x"
  )
  state = learner.init(KEY, PART)
  _, metrics = jax.jit(learner.step)(state, learner.frozen, PART, KEY)
  gap = network(0).kernel[...] - network(1).kernel[...]
  total, count = metrics["ewc/loss"]
  np.testing.assert_allclose(total / count, jnp.sum(gap**2), rtol=1e-5)


@pytest.mark.slow
def test_what_lacks_is_named():
  learner = continue_on(network(0), create("er"), optax.sgd(0.1), on="x")
  with pytest.raises(ValueError, match="expected 'replay' too"):
    learner.init(KEY, PART)
  with pytest.raises(ValueError, match="task_lwf needs the network 'past'"):
    continue_on(network(0), create("task_lwf"), optax.sgd(0.1), on="x")
