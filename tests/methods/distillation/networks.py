"""Outputs of small networks, and programs that apply an objective to a pair."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.nets import Outputs

KEY = jax.random.key(0)
ROWS = 16
BATCH = {
  "mask": jnp.asarray(np.arange(ROWS) < 13),
  "label": jnp.asarray(np.arange(ROWS) % 3),
}


def pair(student, teacher):
  """The outputs of both by their roles."""
  return {"student": student, "teacher": teacher}


def draw(seed, *shape):
  """Normal numbers."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(seed, *shapes):
  """Outputs whose logits are a linear head's on the mean of the last map."""
  maps = [draw(seed + i, ROWS, *shape) for i, shape in enumerate(shapes)]
  features = {f"f{i}": x for i, x in enumerate(maps)}
  embedding = maps[-1].reshape(ROWS, -1, maps[-1].shape[-1]).mean(1)
  kernel, bias = draw(seed + 8, embedding.shape[1], 3), draw(seed + 9, 3)
  logits = embedding @ kernel + bias[None]
  return jax.tree.map(
    jnp.asarray, Outputs(logits, features, embedding, classifier=(kernel, bias))
  )


def staged(seed, sizes=(4, 4, 2), widths=(3, 4, 6)):
  """Outputs of 4 examples, of a stem and two stages, with pre-activations."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  preactivations = {
    f"f{i}": draw(4, size, size, width)
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True))
  }
  return jax.tree.map(
    jnp.asarray,
    Outputs(
      logits=draw(4, 3),
      features=jax.tree.map(lambda x: np.maximum(x, 0), preactivations),
      embedding=draw(4, widths[-1]),
      preactivations=preactivations,
      normalizations={
        name: (draw(x.shape[-1]), draw(x.shape[-1]))
        for name, x in preactivations.items()
      },
    ),
  )


STAGED_MASK = np.array([True, True, False, True])


def mean(values):
  """Of the examples of `staged` outputs that count."""
  return np.mean(np.asarray(values)[STAGED_MASK])


def start_and_apply(objective, outputs, batch=None):
  """The initial parameters, the state after a step, and the loss."""
  batch = {"mask": STAGED_MASK} if batch is None else batch

  @jax.jit
  def program(outputs, batch):
    params, state = objective.init(KEY, outputs)
    loss, state, _ = objective.apply(params, state, outputs, batch, KEY)
    return params, state, loss

  return program(outputs, batch)


def value_of(objective, outputs, changed=None):
  """The loss, with other parameters than the initial ones if given."""

  @jax.jit
  def program(outputs, changed):
    params, state = objective.init(KEY, outputs)
    params = params if changed is None else changed
    return objective.apply(params, state, outputs, BATCH, KEY)[0]

  return program(outputs, changed)


def run(objective, student, teacher, changed=None):
  """The loss of a pair, as :func:`value_of` gives it."""
  return value_of(objective, pair(student, teacher), changed)


def in_views(student, teacher, views):
  """Outputs of a pair, and of other views of their examples."""
  outputs = pair(student, teacher)
  for i, view in enumerate(views):
    outputs[f"student_{view}"] = network(40 + i, (4, 4, 3), (4, 4, 5))
    outputs[f"teacher_{view}"] = network(50 + i, (4, 4, 3), (2, 2, 6))
  return outputs


def gradients(objective, student, teacher):
  """By the parameters and by the student's features."""

  @jax.jit
  def program(student, teacher):
    params, state = objective.init(KEY, pair(student, teacher))

    def loss(params, features):
      moved = pair(student._replace(features=features), teacher)
      return objective.apply(params, state, moved, BATCH, KEY)[0]

    return jax.grad(loss, (0, 1))(params, student.features)

  return program(student, teacher)


STUDENT = network(0, (4, 4, 3), (4, 4, 5))
TEACHER = network(10, (4, 4, 3), (2, 2, 6))
BOTH = pair(STUDENT, TEACHER)
VIT = network(20, (10, 4), (10, 4), (10, 4))
WIDE_VIT = network(30, (11, 6), (11, 6), (11, 6))
STAGED, STAGED_TEACHER = staged(0), staged(1)
STAGED_WIDE = staged(2, widths=(3, 5, 8))
