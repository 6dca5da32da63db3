"""The methods as learners, their buffers, and what they do after a task."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.continual.recipes import RECIPES
from experiments.continual.recipes import Recipe
from kdjax import continual
from kdjax import nets
from kdjax import objectives
from kdjax import training
from kdjax.ops import cross_entropy
from kdjax.ops import unit_vectors

SEQUENTIAL, JOINT = "sequential", "joint"
METHODS = tuple(name for name in RECIPES["split"] if name != SEQUENTIAL)
NAMES = {name: objectives.PRESETS[name].title for name in RECIPES["split"]}
NAMES |= {SEQUENTIAL: "fine-tuning", JOINT: "joint training"}
# Reservoirs that every step shows its examples to, and their entries.
RESERVOIRS: dict[str, tuple[str, ...]] = {
  "er": ("label",),
  "der": ("stored_logits",),
  "der_plus_plus": ("label", "stored_logits"),
}
# Buffers that are filled after a task, and their entries.
FILLED: dict[str, tuple[str, ...]] = {
  "fdr": ("stored_logits", "group", "rank"),
  "icarl": ("label", "group", "rank"),
}
BUFFERED = (*RESERVOIRS, *FILLED)


class Setting(NamedTuple):
  """The sizes on which the programs of a stream depend."""

  hidden: tuple[int, ...]
  shape: tuple[int, int, int]  # of an image
  classes: int
  task_classes: int  # of a task
  buffer: int


class Task(NamedTuple):
  """What a task is to a method; the same arrays for all seeds."""

  data: Any  # images and labels, filled up to `[n, ...]`
  size: Any  # the number of images
  classes: Any  # the classes of the task, `[task_classes]`
  past: Any  # marks of the classes of earlier tasks, 0 or 1, `[classes]`
  number: Any  # of the task, from 0
  seen: Any  # the number of tasks so far, this one included
  is_ordered: Any = False  # whether images come in their order


class Carry(NamedTuple):
  """What a method keeps from task to task."""

  state: training.TrainState
  past: Any  # the network before the current task
  buffer: Any  # a `Reservoir`, or ()
  memory: Any  # of SI


def make_network(setting: Setting) -> training.Network:
  """Mammoth's perceptron: Xavier's kernels, no biases, images in [0, 1].

  Its state marks the classes that it answers with; others have -inf.
  """
  plain = training.Network.of(
    lambda rngs: nets.MLP(
      setting.classes,
      input_shape=setting.shape,
      hidden=setting.hidden,
      rngs=rngs,
    ),
    preprocess=lambda images: images.astype(jnp.float32) / 255,
  )
  xavier = nnx.initializers.glorot_uniform()

  def init(key: jax.Array) -> training.Variables:
    params, state = plain.init(key)
    leaves, structure = jax.tree.flatten(params)
    drawn = [
      xavier(jax.random.fold_in(key, i), x.shape, x.dtype)
      if x.ndim == 2
      else jnp.zeros_like(x)
      for i, x in enumerate(leaves)
    ]
    marks = {"plain": state, "answers": jnp.ones(setting.classes)}
    return training.Variables(jax.tree.unflatten(structure, drawn), marks)

  def forward(variables, inputs, *, train, key):
    own = training.Variables(variables.params, variables.state["plain"])
    outputs, _ = plain.forward(own, inputs, train=train, key=key)
    open_ = variables.state["answers"] > 0.5
    logits = jnp.where(open_, outputs.logits, -jnp.inf)
    return outputs._replace(logits=logits), variables.state

  return training.Network(init, forward)


def make_learner(
  name: str, recipe: Recipe, network: training.Network
) -> training.Learner:
  """The learner of a method."""
  name = SEQUENTIAL if name == JOINT else name
  row = objectives.PRESETS[name]
  parts: list[Any] = [optax.sgd(recipe.learning_rate)]
  if recipe.weight_decay:
    parts.insert(0, optax.add_decayed_weights(recipe.weight_decay))
  if name == "si":
    parts.insert(0, optax.clip(1.0))
  return training.continue_on(
    network,
    objectives.preset(name, **recipe.options),
    optax.chain(*parts),
    past=network if "past" in row.networks else None,
    replay=row.domains,
  )


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
  return training.continue_on(network, objectives.preset(SEQUENTIAL), optimizer)


def put(tree: Any, **values: Any) -> Any:
  """Nested dictionaries with the entries of these names replaced."""
  if not isinstance(tree, dict):
    return tree
  return {k: values.get(k, put(v, **values)) for k, v in tree.items()}


def put_state(state: training.TrainState, **values: Any) -> training.TrainState:
  """The train state with entries of the network and objective replaced."""
  return state._replace(state=put(state.state, **values))


def find(tree: Any, name: str) -> Any:
  """The first entry of this name in nested dictionaries."""
  if isinstance(tree, dict):
    if name in tree:
      return tree[name]
    found = (find(branch, name) for branch in tree.values())
    return next((x for x in found if x is not None), None)
  return None


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
  network = make_network(setting)
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
  for part in objectives.PRESETS[name].domains if name != JOINT else ():
    rows = jax.tree.map(lambda x: x[:1], buffer.examples)
    parts[part] = rows | {"mask": batch["mask"]}
  state = learner.init(key, batch | parts, **recipe.weights)
  # Marks of one shape from the start: the first task compiles for all.
  state = put_state(state, past_classes=jnp.zeros(setting.classes))
  memory = continual.si_init(state.params["student"]) if name == "si" else ()
  return Carry(state, state.student, buffer, memory)


def predict(
  name: str, setting: Setting, carry: Carry, images: Any
) -> jax.Array:
  """Logits of all classes; iCaRL's are of the nearest mean of exemplars."""
  network = make_network(setting)
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


def after_task(
  name: str,
  recipe: Recipe,
  setting: Setting,
  carry: Carry,
  task: Task,
  key: jax.Array,
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
  elif name == "icarl":
    carry = carry._replace(buffer=fill_by_class(setting, carry, task))
  return carry._replace(past=student)


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
  setting: Setting, carry: Carry, task: Task
) -> continual.Reservoir:
  """ICaRL's buffer: as many examples of each class, chosen by herding."""
  images, labels = task.data["image"], task.data["label"]
  real = jnp.arange(len(labels)) < task.size
  outputs, _ = make_network(setting).forward(
    carry.state.student, images, train=False, key=None
  )
  embeddings: Any = outputs.embedding
  most = min(setting.buffer // setting.task_classes, len(labels))
  chosen = jax.vmap(
    lambda c: continual.herding(embeddings, most, where=real & (labels == c))
  )(task.classes)
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
