"""The methods as learners, their buffers, and what they do after a task."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.continual import bias_correction, cosine_head
from experiments.continual.networks import (
  COSINE,
  Setting,
  correction,
  find,
  make_network,
  put,
  put_state,
  put_weights,
)
from experiments.continual.recipes import RECIPES, Recipe
from kdjax import continual, training
from kdjax import methods as kmethods
from kdjax.ops import cross_entropy, unit_vectors

SEQUENTIAL, JOINT = "sequential", "joint"
METHODS = tuple(name for name in RECIPES["split"] if name != SEQUENTIAL)
NAMES = {name: kmethods.describe(name).title for name in RECIPES["split"]}
NAMES |= {SEQUENTIAL: "fine-tuning", JOINT: "joint training"}
# Reservoirs that every step shows its examples to, and their entries.
RESERVOIRS: dict[str, tuple[str, ...]] = {
  "er": ("label",),
  "der": ("stored_logits",),
  "der_plus_plus": ("label", "stored_logits"),
}
# Methods whose buffer has exemplars, which are examples of the next tasks.
EXEMPLARS = ("icarl", "lucir", "bic", "podnet")
# Of them, those that answer with the classes so far.
REBALANCED = ("lucir", "bic", "podnet")
# Buffers that are filled after a task, and their entries.
FILLED: dict[str, tuple[str, ...]] = {
  "fdr": ("stored_logits", "group", "rank"),
  **dict.fromkeys(EXEMPLARS, ("label", "group", "rank")),
}
BUFFERED = (*RESERVOIRS, *FILLED)


class Task(NamedTuple):
  """The arrays of a task that a method sees; the same for all seeds."""

  data: Any  # images and labels, filled up to `[n, ...]`
  size: Any  # the number of images
  classes: Any  # the classes of the task, `[task_classes]`
  past: Any  # marks of the classes of earlier tasks, 0 or 1, `[classes]`
  number: Any  # of the task, from 0
  seen: Any  # the number of tasks so far, this one included
  is_ordered: Any = False  # whether images come in their order


class Carry(NamedTuple):
  """The state that a method keeps from task to task."""

  state: training.TrainState
  past: Any  # the network before the current task
  buffer: Any  # a `Reservoir`, or ()
  memory: Any  # of SI


def make_learner(
  name: str, recipe: Recipe, network: training.Network
) -> training.Learner:
  """The learner of a method."""
  name = SEQUENTIAL if name == JOINT else name
  parts: list[Any] = [optax.sgd(recipe.learning_rate)]
  if recipe.weight_decay:
    parts.insert(0, optax.add_decayed_weights(recipe.weight_decay))
  if name == "si":
    parts.insert(0, optax.clip(1.0))
  method = kmethods.create(name, **recipe.options)
  if name == "lucir":
    margin = kmethods.stateless(cosine_head.margin_loss, new_classes=0.0)
    own: Any = method.objective
    own = kmethods.combine({"own": (1.0, own), "margin": (1.0, margin)})
    method = method._replace(objective=own)
  past = network if "past" in method.needs.networks else None
  return training.continue_on(network, method, optax.chain(*parts), past=past)


def warm_up_learner(
  recipe: Recipe, network: training.Network
) -> training.Learner:
  """Trains the classifier alone, as LwF's code does before each task."""

  def labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: (
        "head" if "head" in jax.tree_util.keystr(path) else "rest"
      ),
      params,
    )

  optimizer = optax.multi_transform(
    {"head": optax.sgd(recipe.learning_rate), "rest": optax.set_to_zero()},
    labels,
  )
  return training.continue_on(network, kmethods.create(SEQUENTIAL), optimizer)


def example_of(setting: Setting, names: tuple[str, ...]) -> dict[str, Any]:
  """The shapes of an example of the buffer."""
  shapes = {
    "image": ((1, *setting.shape), jnp.uint8),
    "label": ((1,), jnp.int32),
    "stored_logits": ((1, setting.classes), jnp.float32),
    "group": ((1,), jnp.int32),
    "rank": ((1,), jnp.int32),
  }
  return {k: jax.ShapeDtypeStruct(*shapes[k]) for k in ("image", *names)}


def start(name: str, recipe: Recipe, setting: Setting, key: jax.Array) -> Carry:
  """The state before the first task."""
  network = make_network(setting, name)
  learner = make_learner(name, recipe, network)
  buffer: Any = ()
  if entries := {**RESERVOIRS, **FILLED}.get(name):
    buffer = continual.reservoir_init(
      example_of(setting, entries), size=setting.buffer
    )
  label = jnp.zeros(1, jnp.int32)
  image = jnp.zeros((1, *setting.shape), jnp.uint8)
  batch = {"image": image, "label": label, "mask": label > 0}
  parts = {}
  for part in kmethods.describe(name).domains if name != JOINT else ():
    rows = jax.tree.map(lambda x: x[:1], buffer.examples)
    parts[part] = rows | {"mask": batch["mask"]}
  state = learner.init(key, batch | parts)
  # Marks of one shape from the start: the first task compiles for all.
  none = jnp.zeros(setting.classes)
  state = put_state(state, past_classes=none, new_classes=none)
  memory = continual.si_init(state.params["student"]) if name == "si" else ()
  return Carry(state, state.student, buffer, memory)


def predict(
  name: str, setting: Setting, carry: Carry, images: Any
) -> jax.Array:
  """Logits of all classes; iCaRL's are of the nearest mean of exemplars."""
  network = make_network(setting, name)
  variables = carry.state.student
  everything = jnp.ones(setting.classes)
  variables = variables._replace(state=put(variables.state, answers=everything))

  def look(images: Any) -> Any:
    return network.forward(variables, images, train=False, key=None)[0]

  outputs = look(images)
  if name != "icarl":
    return outputs.logits
  rows, buffer = carry.buffer.examples, carry.buffer
  kept = jnp.arange(setting.buffer) < buffer.seen
  members = jax.nn.one_hot(rows["label"], setting.classes) * kept[:, None]
  means = members.T @ unit_vectors(look(rows["image"]).embedding)
  means = unit_vectors(means)
  distances = jnp.sum(
    (unit_vectors(outputs.embedding)[:, None] - means[None]) ** 2, -1
  )
  return jnp.where(jnp.any(members, 0)[None], -distances, -jnp.inf)


def before_task(name: str, setting: Setting, carry: Carry, task: Task) -> Carry:
  """The beginning of a task: its classes, and weights by their number."""
  state = put_state(carry.state, past_classes=task.past)
  if name not in REBALANCED:
    return carry._replace(state=state)
  new = jnp.zeros(setting.classes).at[task.classes].set(1.0)
  seen = jnp.maximum(task.past, new)
  state = put_state(
    state, new_classes=new, answers=seen, **correction(1.0, 0.0)
  )
  past, count = jnp.sum(task.past), jnp.sum(new)
  share = past / (past + count)
  published = kmethods.describe(name).weight
  weights = {
    "lucir": {"lucir": published * jnp.sqrt(past / count)},
    "bic": {"ce": 1 - share, "bic": share},
    # Its method has the weights of both parts.
    "podnet": {"podnet": jnp.sqrt((past + count) / count) * (past > 0)},
  }[name]
  state = state._replace(state=put_weights(state.state, **weights))
  if name in COSINE:
    state = cosine_head.imprint(name, setting, state, task)
  return carry._replace(state=state)


def after_task(
  name: str,
  recipe: Recipe,
  setting: Setting,
  carry: Carry,
  task: Task,
  key: jax.Array,
  held: jax.Array | None = None,
) -> Carry:
  """The end of a task: importance, exemplars, and the past of the next."""
  student = carry.state.student
  if name == "ewc":
    carry = carry._replace(state=with_fisher(setting, carry.state, task))
  elif name == "si":
    memory = continual.si_consolidate(
      carry.memory, student.params, damping=recipe.damping
    )
    state = put_state(carry.state, importance=memory.importance)
    carry = carry._replace(state=state, memory=memory)
  elif name == "fdr":
    carry = carry._replace(buffer=fill_by_task(setting, carry, task, key))
  elif name in EXEMPLARS:
    if held is not None:
      state = bias_correction.correct(
        setting, carry.state, carry.buffer, task, held
      )
      carry = carry._replace(state=state)
    carry = carry._replace(
      buffer=fill_by_class(name, setting, carry, task, held)
    )
  return carry._replace(past=carry.state.student)


def with_fisher(
  setting: Setting, state: training.TrainState, task: Task
) -> training.TrainState:
  """Online EWC: adds the Fisher information of the task, with a decay of 1."""
  network, student = make_network(setting), state.student

  def log_likelihood(params: Any, example: Any) -> jax.Array:
    variables = student._replace(params=params)
    images = example["image"][None]
    outputs, _ = network.forward(variables, images, train=False, key=None)
    return -cross_entropy(outputs.logits[0], example["label"])

  mask = jnp.arange(len(task.data["label"])) < task.size
  fisher = continual.ewc_fisher(
    log_likelihood, student.params, task.data, where=mask
  )
  before = find(state.state, "importance")
  return put_state(state, importance=jax.tree.map(jnp.add, before, fisher))


def fill_by_task(
  setting: Setting, carry: Carry, task: Task, key: jax.Array
) -> continual.Reservoir:
  """FDR's buffer: as many examples of each task, with their logits now."""
  images = task.data["image"]
  real = jnp.arange(len(images)) < task.size
  noise = jax.random.uniform(key, real.shape)
  chosen = jnp.argsort(jnp.where(real, noise, 2.0))[: setting.buffer]
  outputs, _ = make_network(setting).forward(
    carry.state.student, images[chosen], train=False, key=None
  )
  rank = jnp.arange(len(chosen), dtype=jnp.int32)
  rows = {
    "image": images[chosen],
    "stored_logits": outputs.logits,
    "group": jnp.full(rank.shape, task.number, jnp.int32),
    "rank": rank,
  }
  share = setting.buffer // task.seen
  old = carry.buffer.examples["group"] != task.number
  return refill(carry.buffer, rows, old, rank < task.size, share)


def fill_by_class(
  name: str,
  setting: Setting,
  carry: Carry,
  task: Task,
  held: jax.Array | None = None,
) -> continual.Reservoir:
  """Exemplars: as many examples of each class, chosen by herding.

  Examples that training did not see, `held`, are among them by their rank.
  """
  images, labels = task.data["image"], task.data["label"]
  real = jnp.arange(len(labels)) < task.size
  outputs, _ = make_network(setting, name).forward(
    carry.state.student, images, train=False, key=None
  )
  embeddings: Any = outputs.embedding
  most = min(setting.buffer // setting.task_classes, len(labels))
  size = most
  if held is not None:
    real &= ~bias_correction.marks_of(held, len(labels))
    size -= held.shape[1]
  chosen = jax.vmap(
    lambda c: continual.herding(embeddings, size, where=real & (labels == c))
  )(task.classes)
  if held is not None:
    chosen = bias_correction.interleave(held, chosen)
  rank = jnp.broadcast_to(jnp.arange(most), chosen.shape).ravel()
  chosen = chosen.ravel()
  rows = {
    "image": images[chosen],
    "label": labels[chosen],
    "group": labels[chosen],
    "rank": rank.astype(jnp.int32),
  }
  share = setting.buffer // (task.seen * setting.task_classes)
  groups = carry.buffer.examples["group"]
  old = jnp.all(groups[:, None] != task.classes[None], -1)
  return refill(carry.buffer, rows, old, chosen >= 0, share)


def refill(
  buffer: continual.Reservoir, rows: Any, old: Any, new: Any, share: Any
) -> continual.Reservoir:
  """Keeps the first of each group, of old rows and of new ones."""
  size = len(old)
  every = jax.tree.map(lambda *x: jnp.concatenate(x), buffer.examples, rows)
  kept = jnp.concatenate([old & (jnp.arange(size) < buffer.seen), new])
  kept &= every["rank"] < share
  order = jnp.argsort(~kept, stable=True)[:size]
  return continual.Reservoir(
    jax.tree.map(lambda x: x[order], every),
    jnp.minimum(jnp.sum(kept), size).astype(jnp.int32),
  )
