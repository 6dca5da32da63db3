"""Training in rounds of self-training, for all seeds, one after the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frame import progress
from experiments.gradual.network import head_forward
from kdjax import adaptation
from kdjax import metrics
from kdjax import selection
from kdjax import training
from kdjax import transforms
from kdjax.ops import cross_entropy

# After which round to stop: by a score of target validation images without
# their labels, or with them.
RULES = {"information": "information", "oracle": "accuracy"}
# Points of each domain between whose embeddings domains are interpolated; the
# transport plan is a matrix of them.
COUPLED = 2000
# Keras' Adam.
EPSILON = 1e-7


class Trained(NamedTuple):
  """The result of a method."""

  # The variables after the last round, `[seeds, ...]`.
  final: training.Variables
  # Those after the round that a rule chooses, by the rule's name.
  best: dict[str, training.Variables]
  # Scores before the first round and after each, `[1 + rounds, seeds]`.
  seen: dict[str, np.ndarray]


def make_learner(forward: training.Forward, config: Any):
  """Supervised training of one student.

  Returns `init(variables, images) -> state`, of images by their shape, and
  `learn(state, images, labels, mask, key, epochs) -> state`, which passes over
  the images whose mask is True. The batch that ends a pass is filled up from
  its start.
  """
  optimizer = optax.adam(config.learning_rate, eps=EPSILON)
  positions = jnp.arange(config.batch_size)

  def learner_of(variables):
    student = training.Model(forward, variables)
    return training.distill(student, None, cross_entropy, optimizer)

  def init(variables, images):
    spec = {
      "image": jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype),
      "label": jax.ShapeDtypeStruct((1,), jnp.int32),
      "mask": jax.ShapeDtypeStruct((1,), bool),
    }
    # Nothing is drawn.
    return learner_of(variables).init(jax.random.key(0), spec)

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

      # As many as there are batches of what is learned.
      steps = (count + config.batch_size - 1) // config.batch_size
      return jax.lax.fori_loop(0, steps, update, state)

    return jax.lax.fori_loop(0, epochs, run_epoch, state)

  return init, learn


def make_round(forward: training.Forward, config: Any):
  """One round of self-training, a domain's images `[seeds, images, ...]`.

  Returns `advance(states, keys, images, drop) -> states, seen`.
  """
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


def make_scores(forward: training.Forward):
  """Scores of all students on labeled images; labels give the accuracy."""

  @jax.jit
  def score(variables, part):
    def one(variables):
      outputs = forward(variables, part["image"], train=False, key=None)[0]
      hits = metrics.accuracy(outputs.logits, part["label"])
      return {
        "information": selection.im_score(outputs.logits),
        "accuracy": jnp.mean(hits),
      }

    return jax.lax.map(one, variables)

  return score


def run_rounds(
  stage: str,
  job: Any,
  rounds: int,
  state: training.TrainState,
  advance: Callable[[int, Any], tuple[Any, dict[str, jax.Array]]],
  whole: Callable[[training.Variables], training.Variables] = lambda x: x,
) -> Trained:
  """Trains round by round, from the last checkpoint on if there is one."""

  def look(state):
    variables = whole(state.student)
    seen = jax.device_get(job.score(variables, job.data.validation))
    return variables, seen

  variables, seen = look(state)
  history = [jax.tree.map(np.ndarray.tolist, seen)]
  tree: dict[str, Any] = {
    "state": state,
    "best": dict.fromkeys(RULES, variables),
  }
  folder = job.run.path / "checkpoints" / stage
  with training.Checkpoints(folder, keep=1) as checkpoints:
    restored = checkpoints.restore(tree)
    first, tree, history = restored or training.Restored(0, tree, history)
    if first:
      job.console.print(f"resuming {stage} at round {first} of {rounds}")
    job.run.rewind(stage, first)
    with progress.progress(job.console, stage, rounds, start=first) as update:
      for i in range(first, rounds):
        state, found = advance(i, tree["state"])
        variables, seen = look(state)
        best = {
          rule: _where(
            seen[name] > np.max([row[name] for row in history], 0),
            variables,
            tree["best"][rule],
          )
          for rule, name in RULES.items()
        }
        tree = {"state": state, "best": best}
        history.append(jax.tree.map(np.ndarray.tolist, seen))
        means = {
          k: np.mean(x) for k, x in (jax.device_get(found) | seen).items()
        }
        # Before it is saved: a run resumed from here finds its row.
        job.run.log(stage=stage, step=i + 1, **means)
        checkpoints.save(i + 1, tree, history)
        update(i + 1, f"target accuracy {means['accuracy']:.1%}")
  return Trained(
    whole(tree["state"].student),
    tree["best"],
    {name: np.array([row[name] for row in history]) for name in history[0]},
  )


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

  def advance(i, states):
    return epoch(states, _keys(job, i), part, mask), {}

  start = start_all(init, job.variables, part["image"])
  return run_rounds(stage, job, job.config.source_epochs, start, advance)


def train_on_images(
  stage: str,
  job: Any,
  source: training.Variables,
  images: jax.Array,
  order: np.ndarray,
  drop: float,
) -> Trained:
  """Goes on from the source's model by self-training, block by block."""
  init, _ = make_learner(job.forward, job.config)
  seeds = job.config.seeds

  def advance(i, states):
    block = images[order[i]]
    block = jnp.broadcast_to(block, (seeds, *block.shape))
    return job.advance(states, _keys(job, i), block, drop)

  start = start_all(init, source, images)
  return run_rounds(stage, job, len(order), start, advance)


def train_on_generated(
  stage: str, job: Any, source: training.Variables
) -> Trained:
  """Self-training of the classifier on domains between the embeddings.

  Only the source and the target are used, as if nothing lay between them.
  """
  config, data = job.config, job.data
  init, _ = make_learner(head_forward, config)
  round_of_head = make_round(head_forward, config)

  @jax.jit
  def generate(source, source_images, target_images):
    def one(variables):
      embeddings = (
        job.forward(variables, images, train=False, key=None)[0].embedding
        for images in (source_images, target_images)
      )
      return transforms.interpolate_domains(
        *embeddings,
        num_steps=config.blocks,
        num_pairs=config.block_examples,
      ).points

    return jax.lax.map(one, source)

  points = generate(
    source, data.source["image"][:COUPLED], data.target["image"][:COUPLED]
  )

  def advance(i, states):
    return round_of_head(states, _keys(job, i), points[:, i], config.drop)

  def whole(head):
    return source._replace(params=source.params | {"head": head.params})

  head = training.Variables(source.params["head"], {})
  start = start_all(init, head, points[0, 0])
  return run_rounds(stage, job, config.blocks, start, advance, whole)


def start_all(init: Callable[..., Any], variables: Any, images: Any) -> Any:
  """The states of all seeds."""
  return jax.jit(jax.vmap(init, (0, None)))(variables, images[:1])


def _keys(job: Any, i: int) -> jax.Array:
  """The keys of all seeds in a round, the same under every method."""
  return jax.vmap(jax.random.fold_in, (0, None))(job.key, i)


def _where(better: np.ndarray, new: Any, old: Any) -> Any:
  """The new variables of the seeds that are better."""

  def pick(new, old):
    return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  return jax.tree.map(pick, new, old)
