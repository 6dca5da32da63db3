"""The learner of fine-tuning: a student and its past."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax.methods import Method, Pass, parameter_ema, stateless
from kdjax.training import finetune

KEY = jax.random.key(0)
BATCH = {
  "x": jax.random.normal(jax.random.key(1), (4, 3)),
  "mask": jnp.arange(4) < 3,
}


def network(seed):
  return nnx.Linear(3, 2, rngs=nnx.Rngs(seed))


def test_the_past_stays_as_it_was():
  def gap(student_logits, past_logits):
    return jnp.sum((student_logits - past_logits) ** 2, -1)

  student, past = network(0), network(1)
  learner = finetune(student, past, gap, optax.sgd(0.1), on="x")
  state = learner.init(KEY, BATCH)
  x = BATCH["x"][:3]
  gaps = student(x) - past(x)
  step = jax.jit(learner.step)
  state, metrics = step(state, learner.frozen, BATCH, KEY)
  np.testing.assert_allclose(metrics["loss"], (jnp.sum(gaps**2), 3), rtol=1e-5)
  slope = 2 / 3 * x.T @ gaps
  np.testing.assert_allclose(
    state.params["student"]["kernel"],
    student.kernel[...] - 0.1 * slope,
    rtol=1e-5,
    atol=1e-6,
  )
  np.testing.assert_array_equal(
    learner.frozen["past"].params["kernel"], past.kernel[...]
  )
  assert set(state.params) == {"student", "objective"}


def test_the_average_is_a_role_of_its_own():
  """A momentum encoder, which the optimizer keeps."""

  def gap(student_logits, average_logits):
    return jnp.sum(student_logits - average_logits, -1)

  optimizer = optax.chain(optax.sgd(1.0), parameter_ema(0.0))
  passes = {"student": Pass(train=True), "average": Pass("average")}
  method = Method(stateless(gap), passes)
  learner = finetune(network(0), None, method, optimizer, on="x")
  state, losses = learner.init(KEY, BATCH), []
  step = jax.jit(learner.step)
  for _ in range(2):
    state, metrics = step(state, learner.frozen, BATCH, KEY)
    losses.append(metrics["loss"][0])
  # With decay 0 the average is the student itself.
  np.testing.assert_allclose(losses, 0, atol=1e-5)


@pytest.mark.slow
def test_networks_see_the_augmented_inputs():
  def both(student_logits, past_logits):
    return jnp.sum(student_logits - past_logits, -1)

  def augment(key, x):
    return x + jax.random.normal(key, x.shape)

  past = network(1)
  learner = finetune(past, past, both, optax.sgd(1.0), on="x", augment=augment)
  state = learner.init(KEY, BATCH)
  state, metrics = learner.step(state, learner.frozen, BATCH, KEY)
  np.testing.assert_allclose(metrics["loss"], (0, 3), atol=1e-5)
  # The slope is the mean of what was seen: not that of the batch.
  moved = past.kernel[...] - state.params["student"]["kernel"]
  assert np.all(np.abs(moved[:, 0] - BATCH["x"][:3].mean(0)) > 1e-3)
