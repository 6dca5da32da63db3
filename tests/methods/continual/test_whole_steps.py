"""Methods of continual learning, task by task, beside mammoth's loop."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, training
from tests.methods import whole_steps

FOLDER = whole_steps.FOLDER / "mammoth"
CASES = json.loads((FOLDER / "index.json").read_text())


def weights_of(state):
  return list(map(np.asarray, jax.tree.leaves(state.params["student"])))


def numbered(arrays, prefix):
  return [arrays[f"{prefix}:{i}"] for i in range(6)]


def distance(trained, expected, start):
  off = sum(
    np.sum((a - b) ** 2) for a, b in zip(trained, expected, strict=True)
  )
  way = sum(np.sum((b - c) ** 2) for b, c in zip(expected, start, strict=True))
  return np.sqrt(off / way)


def batch_of(arrays, task, step):
  image = jnp.asarray(arrays["in:image"][task, step])
  label = jnp.asarray(arrays["in:label"][task, step])
  return {"image": image, "label": label}


def learner_of(name, arrays, **options):
  facts = CASES[name]
  student = whole_steps.Student(numbered(arrays, "in:weights"))
  optimizer = optax.sgd(facts["optimizer"]["learning_rate"])
  method = methods.create(name, **facts["kwargs"], **options)
  return training.continue_on(student, method, optimizer)


@pytest.mark.parametrize("name", ["er", "der", "der_plus_plus"])
def test_a_method_with_a_buffer_of_its_own_reaches_the_weights(name):
  with jax.enable_x64(True), np.load(FOLDER / f"{name}.npz") as file:
    arrays = dict(file)
    tasks, steps, rows = arrays["in:label"].shape
    everything = tasks * steps * rows
    learner = learner_of(name, arrays, buffer=everything, draws=everything)
    state = learner.init(jax.random.key(0), batch_of(arrays, 0, 0))
    start, step, losses = weights_of(state), jax.jit(learner.step), []
    for task in range(tasks):
      for i in range(steps):
        batch = batch_of(arrays, task, i)
        state, seen = step(state, {}, batch, jax.random.key(0))
        losses.append(seen["loss"][0] / seen["loss"][1])
      expected = numbered(arrays, f"out:task{task}")
      assert distance(weights_of(state), expected, start) < 1e-9
    np.testing.assert_allclose(losses, arrays["out:losses"], rtol=1e-9)


def test_agem_reaches_the_weights():
  with jax.enable_x64(True), np.load(FOLDER / "agem.npz") as file:
    arrays = dict(file)
    tasks, steps, rows = arrays["in:label"].shape
    learner = learner_of("agem", arrays)
    replay = {
      "image": jnp.asarray(arrays["in:image"][:, 0].reshape(tasks * rows, -1)),
      "label": jnp.asarray(arrays["in:label"][:, 0].reshape(-1)),
    }
    number = jnp.arange(tasks * rows) // rows

    def batch(task, i):
      own = {**replay, "mask": number < task}
      return {**batch_of(arrays, task, i), "replay": own}

    state = learner.init(jax.random.key(0), batch(0, 0))
    start, step = weights_of(state), jax.jit(learner.step)
    for task in range(tasks):
      for i in range(steps):
        state, _ = step(state, {}, batch(task, i), jax.random.key(0))
      expected = numbered(arrays, f"out:task{task}")
      assert distance(weights_of(state), expected, start) < 1e-9
