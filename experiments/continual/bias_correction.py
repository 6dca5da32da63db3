"""BiC's second stage: examples that are held out, and what is fitted to them.

Of the exemplars of a class the first, the eleventh and so on are held out for
good: nine tenths are trained on, as published.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.continual.networks import (
  Setting,
  correction,
  find,
  make_network,
  put_state,
)
from kdjax import continual, training
from kdjax.ops import cross_entropy, masked_mean

EVERY = 10
# Of Adam, on all examples at once. Two numbers are fitted: it converges.
STEPS, RATE = 500, 0.01


def is_held(rank: Any) -> Any:
  """Whether exemplars of these ranks are held out."""
  return rank % EVERY == 0


def hold_out(setting: Setting, task: Any, key: jax.Array) -> jax.Array:
  """Draws the examples of a task that its training does not see.

  As many of each class as the buffer holds out of each past class.

  Returns:
    `[task_classes, n]`, places in the task; -1 where a class has fewer.
  """
  labels = task.data["label"]
  real = jnp.arange(len(labels)) < task.size
  noise = jax.random.uniform(key, real.shape)
  most = -(-min(setting.buffer // setting.task_classes, len(labels)) // EVERY)
  before = jnp.maximum(task.seen - 1, 1) * setting.task_classes
  count = -(-(setting.buffer // before) // EVERY)

  def of_class(label: jax.Array) -> jax.Array:
    mine = real & (labels == label)
    chosen = jnp.argsort(jnp.where(mine, noise, 2.0))[:most]
    return jnp.where(mine[chosen] & (jnp.arange(most) < count), chosen, -1)

  return jax.vmap(of_class)(task.classes)


def marks_of(places: jax.Array, size: int) -> jax.Array:
  """Marks the places `[size]`; -1 is none."""
  places = jnp.where(places < 0, size, places).ravel()
  return jnp.zeros(size, bool).at[places].set(True, mode="drop")


def interleave(held: jax.Array, others: jax.Array) -> jax.Array:
  """Orders the exemplars of each class so that `is_held` finds the held."""
  place = np.arange(held.shape[1] + others.shape[1])
  passed = place // EVERY
  source = np.where(is_held(place), passed, held.shape[1] + place - passed - 1)
  return jnp.concatenate([held, others], 1)[:, source]


def correct(
  setting: Setting,
  state: training.TrainState,
  buffer: continual.Reservoir,
  task: Any,
  held: jax.Array,
) -> training.TrainState:
  """Fits the two numbers to the held-out examples of all classes so far."""
  places, rows = held.ravel(), buffer.examples
  kept = jnp.arange(setting.buffer) < buffer.seen
  # A class that returns has its examples in the task.
  kept &= jnp.all(rows["label"][:, None] != task.classes[None], -1)
  mask = jnp.concatenate([places >= 0, kept & is_held(rows["rank"])])
  images, labels = (
    jnp.concatenate([task.data[k][places], rows[k]]) for k in ("image", "label")
  )
  outputs, _ = make_network(setting, "bic").forward(
    state.student, images, train=False, key=None
  )
  new = find(state.state["student"], "new_classes") > 0.5

  def loss(pair: dict[str, jax.Array]) -> jax.Array:
    logits = continual.bic_logits(
      outputs.logits, new, scale=pair["bias_scale"], shift=pair["bias_shift"]
    )
    return masked_mean(cross_entropy(logits, labels), mask)

  optimizer, first = optax.adam(RATE), correction(1.0, 0.0)

  def update(_: Any, carry: Any) -> Any:
    pair, memory = carry
    changes, memory = optimizer.update(jax.grad(loss)(pair), memory)
    return optax.apply_updates(pair, changes), memory

  carry = first, optimizer.init(first)
  pair, _ = jax.lax.fori_loop(0, STEPS, update, carry)
  pair = jax.tree.map(lambda x, y: jnp.where(task.seen > 1, x, y), pair, first)
  return put_state(state, **pair)
