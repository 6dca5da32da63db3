"""One program for all tasks of a method, and for all seeds at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.continual import bias_correction
from experiments.continual.methods import (
  EXEMPLARS,
  FILLED,
  JOINT,
  RESERVOIRS,
  SEQUENTIAL,
  Carry,
  after_task,
  before_task,
  make_learner,
  predict,
  start,
  warm_up_learner,
)
from experiments.continual.networks import (
  Setting,
  make_network,
  put_state,
  put_weights,
)
from experiments.continual.recipes import Recipe
from kdjax import continual, training
from kdjax import methods as kmethods
from kdjax.ops import cross_entropy

TEST_BATCH = 1000


class Program(NamedTuple):
  """The functions of a method; each is that of all seeds, the first axis."""

  start: Callable[..., Carry]  # keys -> carry
  # (carry, task, epochs, steps, keys) -> carry. `steps` are those of an epoch,
  # so that tasks of several sizes, and parts of a task, compile once.
  learn: Callable[..., Carry]
  # (carry, tests, own, seen) -> accuracies `[seeds, tasks]` among the classes
  # seen so far, and among those of the task.
  test: Callable[..., tuple[jax.Array, jax.Array]]
  empty: Callable[[Carry], Carry]  # loses the buffer


def make_program(name: str, recipe: Recipe, setting: Setting) -> Program:
  """Makes the program of a method."""
  network = make_network(setting, name)
  learner = make_learner(name, recipe, network)
  row = kmethods.describe(SEQUENTIAL if name == JOINT else name)

  def draw(buffer: continual.Reservoir, key: jax.Array) -> dict[str, Any]:
    rows, mask = continual.reservoir_sample(buffer, key, recipe.replay)
    return rows | {"mask": mask}

  def step(carry: Carry, batch: dict[str, Any], key: jax.Array) -> Carry:
    keys = dict(zip(row.domains, jax.random.split(key, 3), strict=False))
    parts = {part: draw(carry.buffer, k) for part, k in keys.items()}
    frozen = {"past": carry.past} if "past" in row.networks else {}
    before = carry.state
    state = before
    for weights in phases(name):
      if weights:
        state = state._replace(state=put_weights(state.state, **weights))
      state, _ = learner.step(state, frozen, batch | parts, key, axis_name=None)
    carry = carry._replace(state=state)
    if name == "si":
      carry = carry._replace(memory=path_of(network, carry, before, batch))
    if name in RESERVOIRS:
      shown = {
        k: batch[k] for k in ("image", "label") if k in carry.buffer.examples
      }
      if "stored_logits" in carry.buffer.examples:
        outputs, _ = network.forward(
          before.student, batch["image"], train=False, key=None
        )
        shown["stored_logits"] = outputs.logits
      buffer = continual.reservoir_update(
        carry.buffer, jax.random.fold_in(key, 1), shown, where=batch["mask"]
      )
      carry = carry._replace(buffer=buffer)
    return carry

  def passes(
    take: Callable[..., Any],
    value: Any,
    arrays: dict[str, Any],
    mask: jax.Array,
    is_ordered: Any,
    epochs: Any,
    steps: Any,
    key: jax.Array,
  ) -> Any:
    """Takes the steps of all epochs over the examples of a mask."""
    count = jnp.sum(mask)
    places = jnp.arange(recipe.batch_size)

    def epoch(number: Any, value: Any) -> Any:
      noise_key, own = jax.random.split(jax.random.fold_in(key, number))
      noise = jax.random.uniform(noise_key, mask.shape)
      noise = jnp.where(is_ordered, jnp.arange(len(mask)) / len(mask), noise)
      order = jnp.argsort(jnp.where(mask, noise, 2.0))
      order = jnp.pad(order, (0, recipe.batch_size))

      def one(i: Any, value: Any) -> Any:
        at = i * recipe.batch_size + places
        rows = order[at]
        batch = {k: x[rows] for k, x in arrays.items()}
        batch["mask"] = at < count
        return take(value, batch, jax.random.fold_in(own, i))

      return jax.lax.fori_loop(0, steps, one, value)

    return jax.lax.fori_loop(0, epochs, epoch, value)

  def warm_up(carry, arrays, mask, task, epochs, steps, key):
    """LwF's own learner of the new classes; nothing before the first task."""
    warm = warm_up_learner(recipe, network)
    label = jnp.zeros(1, jnp.int32)
    image = jnp.zeros((1, *setting.shape), jnp.uint8)
    batch = {"image": image, "label": label, "mask": label > 0}
    state = warm.init(jax.random.key(0), batch)
    student = carry.state.student
    state = state._replace(
      params=state.params | {"student": student.params},
      state=state.state | {"student": student.state},
    )
    new = jnp.zeros(setting.classes).at[task.classes].set(1.0)
    state = put_state(state, answers=new)

    def take(state: Any, batch: Any, key: jax.Array) -> Any:
      return warm.step(state, {}, batch, key, axis_name=None)[0]

    epochs = jnp.where(task.seen > 1, epochs, 0)
    course = epochs, steps, key
    state = passes(take, state, arrays, mask, task.is_ordered, *course)
    params = carry.state.params | {"student": state.params["student"]}
    seen = jnp.maximum(task.past, new)
    state = put_state(carry.state._replace(params=params), answers=seen)
    return carry._replace(state=state, past=state.student)

  def learn(carry, task, epochs, steps, key):
    keys = jax.random.split(key, 3)
    carry = before_task(name, setting, carry, task)
    arrays = {k: task.data[k] for k in ("image", "label")}
    mask = jnp.arange(len(arrays["label"])) < task.size
    held = None
    if name in EXEMPLARS:
      rows = carry.buffer.examples
      arrays = {k: jnp.concatenate([x, rows[k]]) for k, x in arrays.items()}
      kept = jnp.arange(setting.buffer) < carry.buffer.seen
      if name == "bic":
        held = bias_correction.hold_out(setting, task, keys[0])
        mask &= ~bias_correction.marks_of(held, len(mask))
        kept &= ~bias_correction.is_held(rows["rank"])
      mask = jnp.concatenate([mask, kept])
    if name == "task_lwf":
      carry = warm_up(carry, arrays, mask, task, epochs, steps, keys[0])
    course = epochs, steps, keys[1]
    carry = passes(step, carry, arrays, mask, task.is_ordered, *course)
    return after_task(name, recipe, setting, carry, task, keys[2], held)

  def test(carry, tests, own, seen):
    def one(inputs):
      part, own = inputs
      size = len(part["label"])
      plan = training.epoch_plan(size, min(TEST_BATCH, size))

      def hits(rows):
        logits = predict(name, setting, carry, part["image"][rows["index"]])
        label, mask = part["label"][rows["index"]], rows["mask"]
        mask &= part["mask"][rows["index"]]

        def count(marks):
          answer = jnp.argmax(jnp.where(marks > 0.5, logits, -jnp.inf), -1)
          return jnp.sum((answer == label) & mask)

        return count(seen), count(own)

      totals = jax.lax.map(hits, plan)
      return [jnp.sum(x) / jnp.sum(part["mask"]) for x in totals]

    return jax.lax.map(one, (tests, own))

  def empty(carry):
    buffer = carry.buffer
    if name in FILLED or name in RESERVOIRS:
      buffer = buffer._replace(seen=jnp.zeros_like(buffer.seen))
    return carry._replace(buffer=buffer)

  shared = ("task", "epochs", "steps", "tests", "own", "seen")
  return Program(
    jax.jit(jax.vmap(lambda key: start(name, recipe, setting, key))),
    jax.jit(training.sweep(learn, shared=shared)),
    jax.jit(training.sweep(test, shared=shared)),
    empty,
  )


def phases(name: str) -> tuple[dict[str, jax.Array], ...]:
  """The weights of each update of a step; mammoth's FDR takes two.

  Its second update has the weight 1: the code never reads its weight alpha.
  """
  if name != "fdr":
    return ({},)
  one, zero = jnp.ones(()), jnp.zeros(())
  return {"ce": one, "fdr": zero}, {"ce": zero, "fdr": one}


def path_of(
  network: training.Network,
  carry: Carry,
  before: training.TrainState,
  batch: dict[str, Any],
) -> continual.SynapticIntelligence:
  """SI's path after a step, by the gradient of the task alone."""
  student = before.student

  def loss(params: Any) -> jax.Array:
    variables = student._replace(params=params)
    outputs, _ = network.forward(
      variables, batch["image"], train=True, key=None
    )
    losses = cross_entropy(outputs.logits, batch["label"])
    count = jnp.maximum(jnp.sum(batch["mask"]), 1)
    return jnp.sum(jnp.where(batch["mask"], losses, 0.0)) / count

  gradient = jax.grad(loss)(student.params)
  moved = jax.tree.map(
    jnp.subtract, carry.state.params["student"], student.params
  )
  return continual.si_update(carry.memory, gradient, moved)
