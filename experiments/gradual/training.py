"""Training in rounds of self-training, for all seeds, one after the other."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frame import data as frame_data
from experiments.frame import rounds
from experiments.gradual.network import head_forward
from kdjax import adaptation, metrics, selection, training, transforms
from kdjax.ops import cross_entropy

# After which round to stop: by a score of target validation images without
# their labels, or with them.
RULES = {"information": "information", "oracle": "accuracy"}
# Points of each domain between whose embeddings domains are interpolated; the
# transport plan is a matrix of them.
COUPLED = 2000
EPSILON = 1e-7  # of Keras' Adam


class Trained(NamedTuple):
  """The result of a method."""

  final: training.Variables  # after the last round, `[seeds, ...]`
  best: dict[str, training.Variables]  # after the round of each rule's choice
  seen: dict[str, np.ndarray]  # scores before and after, `[1 + rounds, seeds]`


def train(job: Any) -> dict[str, Trained]:
  """Trains source-only and target-only, and from the first all methods."""
  config, data = job.config, job.data
  shape = config.blocks, config.block_examples
  ordered = np.arange(np.prod(shape)).reshape(shape)
  generator = np.random.default_rng(config.seed)
  shuffled = generator.permutation(ordered.ravel()).reshape(shape)
  between, target = data.between["image"], data.target["image"]
  blocks = {
    "gradual": (between, ordered, config.drop),
    "undropped": (between, ordered, 0.0),
    "pooled": (between, shuffled, config.drop),
    "target": (target, ordered, config.drop),
  }
  parts = {"source_only": data.source, "target_only": data.turned_source}
  trained = {name: train_supervised(name, job, x) for name, x in parts.items()}
  source = trained["source_only"].final
  for name in config.methods:
    if name == "generated":
      trained[name] = train_on_generated(name, job, source)
    else:
      trained[name] = train_on_images(name, job, source, *blocks[name])
  return trained


def train_supervised(stage: str, job: Any, part: dict[str, Any]) -> Trained:
  """Trains from scratch on labeled images; a round is an epoch."""
  init, learn = make_learner(job.forward, job.config)
  mask = jnp.ones_like(part["label"], bool)

  @jax.jit
  def epoch(states, keys, part, mask):
    def one(inputs):
      state, key = inputs
      return learn(state, part["image"], part["label"], mask, key, 1)

    return jax.lax.map(one, (states, keys))

  def advance(states, keys, i):
    return epoch(states, keys, part, mask), {}

  start = init(job.variables, part["image"])
  return run_rounds(stage, job, job.config.source_epochs, start, advance)


def train_on_images(
  stage: str,
  job: Any,
  source: training.Variables,
  images: jax.Array,
  order: np.ndarray,
  drop: float,
) -> Trained:
  """Self-training of source-only on blocks of images, by their places."""
  init, _ = make_learner(job.forward, job.config)
  follow = make_round(job.forward, job.config)

  def advance(states, keys, i):
    block = images[order[i]]
    block = jnp.broadcast_to(block, (job.config.seeds, *block.shape))
    return follow(states, keys, block, drop)

  start = init(source, images)
  return run_rounds(stage, job, len(order), start, advance)


def train_on_generated(
  stage: str, job: Any, source: training.Variables
) -> Trained:
  """Self-training of the classifier on domains between the embeddings."""
  config, data = job.config, job.data
  init, _ = make_learner(head_forward, config)
  round_of_head = make_round(head_forward, config)

  @jax.jit
  def generate(source, *parts):
    def one(variables):
      embeddings = (
        job.forward(variables, images, train=False, key=None)[0].embedding
        for images in parts
      )
      sizes = {"num_steps": config.blocks, "num_pairs": config.block_examples}
      return transforms.interpolate_domains(*embeddings, **sizes).points

    return jax.lax.map(one, source)

  parts = (x["image"][:COUPLED] for x in (data.source, data.target))
  points = generate(source, *parts)

  def advance(states, keys, i):
    return round_of_head(states, keys, points[:, i], config.drop)

  def whole(head):
    return source._replace(params=source.params | {"head": head.params})

  head = training.Variables(source.params["head"], {})
  start = init(head, points[0, 0])
  return run_rounds(stage, job, config.blocks, start, advance, whole)


def make_learner(forward: training.Forward, config: Any):
  """Supervised training of one student.

  `init(variables, images) -> states` of all seeds. `learn(state,
  images, labels, mask, key, epochs) -> state` passes over the images whose mask
  is True; the batch that ends a pass is filled up from its start.
  """
  optimizer = optax.adam(config.learning_rate, eps=EPSILON)
  positions = jnp.arange(config.batch_size)

  def learner_of(variables):
    student = training.Model(forward, variables)
    return training.distill(student, None, cross_entropy, optimizer)

  @jax.jit
  def init(variables, images):
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    spec = frame_data.batch_spec({"image": images, "label": label})

    def start(variables):  # nothing is drawn
      return learner_of(variables).init(jax.random.key(0), spec)

    return jax.vmap(start)(variables)

  def learn(state, images, labels, mask, key, epochs):
    step = learner_of(state.student).step
    count = jnp.sum(mask)

    def run_epoch(epoch, state):
      noise = jax.random.uniform(jax.random.fold_in(key, epoch), mask.shape)
      order = jnp.argsort(jnp.where(mask, noise, 2.0))

      def update(i, state):
        rows = order[(i * config.batch_size + positions) % count]
        batch = {"image": images[rows], "label": labels[rows]}
        batch["mask"] = jnp.ones_like(rows, bool)
        return step(state, {}, batch, key, axis_name=None)[0]

      # As many as the examples of the mask fill.
      steps = (count + config.batch_size - 1) // config.batch_size
      return jax.lax.fori_loop(0, steps, update, state)

    return jax.lax.fori_loop(0, epochs, run_epoch, state)

  return init, learn


@functools.cache
def make_round(forward: training.Forward, config: Any):
  """`(states, keys, images, drop) -> states, seen`, a round of all seeds."""
  _, learn = make_learner(forward, config)

  def predict(state, images):
    return forward(state.student, images, train=False, key=None)[0].logits

  def fit(state, images, labels, mask, key):
    return learn(state, images, labels, mask, key, config.epochs)

  @jax.jit
  def advance(states, keys, images, drop):
    def follow(inputs):
      state, key, images = inputs
      return adaptation.gradual_self_training(
        key, state, [images], fit, predict, drop=drop
      )

    # Not vmapped: convolutions of several kernels at once are slow on a CPU.
    result = jax.lax.map(follow, (states, keys, images))
    seen = {"kept": result.kept[:, 0], "confidence": result.confidence[:, 0]}
    return result.variables, seen

  return advance


@functools.cache
def make_scores(forward: training.Forward):
  """Scores of all students on labeled images; labels give the accuracy."""

  @jax.jit
  def score(variables, part):
    def one(variables):
      outputs = forward(variables, part["image"], train=False, key=None)[0]
      hits = metrics.accuracy(outputs.logits, part["label"])
      information = selection.im_score(outputs.logits)
      return {"information": information, "accuracy": jnp.mean(hits)}

    return jax.lax.map(one, variables)

  return score


def run_rounds(
  stage: str,
  job: Any,
  count: int,
  state: training.TrainState,
  advance: Callable[..., tuple[Any, dict[str, jax.Array]]],
  whole: Callable[[training.Variables], training.Variables] = lambda x: x,
) -> Trained:
  """Trains all seeds; `whole` makes a network of the trained variables."""

  def look(state):
    variables, score = whole(state.student), make_scores(job.forward)
    return variables, jax.device_get(score(variables, job.data.validation))

  def advance_round(i, tree, history):
    # The keys of a round are the same under every method.
    keys = jax.vmap(jax.random.fold_in, (0, None))(job.key, i)
    state, found = advance(tree["state"], keys, i)
    variables, seen = look(state)

    def better(score, before):
      is_better = seen[score] > np.max([row[score] for row in history], 0)

      def pick(new, old):
        return jnp.where(
          jnp.expand_dims(is_better, range(1, new.ndim)), new, old
        )

      return jax.tree.map(pick, variables, before)

    best = {rule: better(RULES[rule], x) for rule, x in tree["best"].items()}
    row = {k: np.mean(x) for k, x in (jax.device_get(found) | seen).items()}
    return rounds.Round(
      {"state": state, "best": best},
      jax.tree.map(np.ndarray.tolist, seen),
      row,
      f"target accuracy {row['accuracy']:.1%}",
    )

  variables, seen = look(state)
  tree, history = rounds.run(
    job,
    stage,
    {"state": state, "best": dict.fromkeys(RULES, variables)},
    advance_round,
    steps=count,
    history=[jax.tree.map(np.ndarray.tolist, seen)],
  )
  final = whole(tree["state"].student)
  return Trained(final, tree["best"], rounds.stack_history(history))
