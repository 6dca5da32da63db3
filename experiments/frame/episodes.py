"""Episodes of meta-learning: their plans, and the losses of four ways."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frame.finetuning import answer
from kdjax import finetuning, methods, training
from kdjax.ops import cross_entropy

WAYS = ("maml", "anil", "reptile", "prototypical")


def outer_optimizer(
  way: str, rate: float, steps: int
) -> optax.GradientTransformation:
  """Adam with a cosine; for Reptile steps towards the adapted weights."""
  if way == "reptile":
    return optax.sgd(optax.linear_schedule(1.0, 0.0, steps))
  return optax.adam(optax.cosine_decay_schedule(rate, steps))


def plan_episodes(
  key: jax.Array, labels: np.ndarray, *, steps: int, tasks: int, examples: int
) -> dict[str, jax.Array]:
  """Plans episodes: all classes in a random order, no example of one twice."""
  _, counts = np.unique(labels, return_counts=True)
  first = np.cumsum(counts) - counts
  order = np.argsort(labels, kind="stable")
  # As many of each class as the smallest has: a table without gaps.
  table = jnp.asarray(order[first[:, None] + np.arange(counts.min())])

  def draw(key):
    order_key, key = jax.random.split(key)
    rows = jax.random.permutation(order_key, table)
    rows = jax.random.permutation(key, rows, 1, independent=True)
    return rows[:, :examples]

  index = jax.vmap(draw)(jax.random.split(key, steps * tasks))
  index = index.reshape(steps, -1)
  return {"index": index, "mask": jnp.ones(index.shape, bool)}


def make_loss(
  way: str,
  forward: training.Forward,
  config: Any,
  classes: int,
  *,
  on: str = "image",
):
  """The loss of a batch of episodes, for `training.make_train_step`."""
  inner = optax.sgd(config.inner_rate)
  steps = config.inner_steps

  def look(params, task):
    return answer(forward, training.Variables(params, {}), task["input"])

  def task_loss(params, task):
    logits = look(params, task).logits
    return jnp.mean(cross_entropy(logits, task["label"]))

  def prototype_loss(params, *parts):
    embedded = ((look(params, x).embedding, x["label"]) for x in parts)
    losses = finetuning.prototypical_loss(
      *itertools.chain(*embedded), num_classes=classes
    )
    return jnp.mean(losses)

  def loss_fn(params, state, frozen, batch, key):
    del frozen, key
    student = params["student"]
    support, query = divide(batch[on], config.tasks, classes)
    match way:
      case "reptile":
        direction = methods.reptile_gradient(
          task_loss, student, support, inner, steps=steps
        )
        # Its gradient is the direction.
        loss = optax.tree.vdot(student, jax.lax.stop_gradient(direction))
      case "prototypical":
        losses = jax.vmap(prototype_loss, (None, 0, 0))(student, support, query)
        loss = jnp.mean(losses)
      case _:
        adapted = ["head"] if way == "anil" else None
        tasks = support, query
        losses = methods.maml_losses(
          task_loss, student, *tasks, inner, steps=steps, adapted=adapted
        )
        loss = jnp.mean(losses)
    return loss, (state, {"loss": (loss, jnp.ones(()))})

  return loss_fn


def divide(inputs: jax.Array, tasks: int, classes: int) -> list[dict[str, Any]]:
  """Support and query of each task; a class's place is its label."""
  inputs = inputs.reshape(tasks, classes, 2, -1, *inputs.shape[1:])
  shots = inputs.shape[3]
  labels = jnp.repeat(jnp.arange(classes), shots)
  labels = jnp.broadcast_to(labels, (tasks, labels.size))
  parts = (
    inputs[:, :, i].reshape(tasks, -1, *inputs.shape[4:]) for i in (0, 1)
  )
  return [{"input": part, "label": labels} for part in parts]
