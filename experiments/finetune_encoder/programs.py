"""Programs: answers of encoders, heads on embeddings, updates, episodes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.finetune_encoder.teachers import Encoder
from experiments.frame import episodes, finetuning, rounds
from kdjax import training
from kdjax.ops import cross_entropy

BATCH = 64  # sentences that an encoder reads at once, where nothing is trained
# Values that are tried beside the published ones.
TRIED = {
  "layerwise": (0.7,),
  "unfreezing": (0.125,),
  "l2_sp": (0.1,),
  "delta": (0.0048,),
  "bss": (0.01,),
  "co_tuning": (0.23,),
  "lwf": (0.04,),
  "bi_tuning": (0.1,),
}
EPISODE_SHOTS = 2  # sentences of a class in a task, and as many queries


@functools.partial(jax.jit, static_argnums=0)
def _answer(forward: training.Forward, variables: Any, tokens: Any) -> Any:
  outputs = finetuning.answer(forward, variables, tokens)
  return outputs.logits, outputs.embedding


def ask(
  encoder: Encoder, variables: training.Variables, part: str
) -> tuple[np.ndarray, np.ndarray]:
  """Logits `[n, classes]` and embeddings `[n, width]` of a part."""
  tokens = encoder.tokens[part]
  rows = []
  for first in range(0, len(tokens), BATCH):
    chunk = tokens[first : first + BATCH]
    left = BATCH - len(chunk)
    padded = np.pad(chunk, ((0, left), (0, 0)), mode="edge")
    found = _answer(encoder.network.forward, variables, padded)
    rows.append([np.asarray(x)[: len(chunk)] for x in found])
  logits, embeddings = map(np.concatenate, zip(*rows, strict=True))
  return logits, embeddings


Head = dict[str, Any]  # the kernel and the bias


def draw_head(key: jax.Array, width: int, classes: int) -> Head:
  """A new head, as `nnx.Linear` begins."""
  kernel = jax.nn.initializers.lecun_normal()(key, (width, classes))
  return {"kernel": kernel, "bias": jnp.zeros(classes)}


def with_head(variables: training.Variables, head: Head) -> training.Variables:
  """The network with another head."""
  return variables._replace(params=variables.params | {"head": head})


def apply_head(head: Head, embeddings: Any) -> Any:
  """The logits of a head."""
  return embeddings @ head["kernel"] + head["bias"][None]


@functools.partial(jax.jit, static_argnames="steps")
def fit_head(
  head: Head, embeddings: Any, labels: Any, rate: Any, *, steps: int
) -> Head:
  """Trains a head alone by Adam with a cosine, on all examples at once."""
  optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

  def loss(head: Head) -> jax.Array:
    return jnp.mean(cross_entropy(apply_head(head, embeddings), labels))

  def update(carry: Any, _: Any) -> Any:
    head, moments = carry
    updates, moments = optimizer.update(jax.grad(loss)(head), moments)
    return (optax.apply_updates(head, updates), moments), None

  carry = head, optimizer.init(head)
  return jax.lax.scan(update, carry, None, length=steps)[0][0]


class Tuning(NamedTuple):
  """The programs that the seeds and the candidates of a method share."""

  start: Callable[..., Any]  # the train state of an initial network
  advance: Callable[..., Any]  # all updates


def make_tuning(config: Any, encoder: Encoder, method: str) -> Tuning:
  """Compiles nothing yet."""

  def learner_of(student: Any, past: Any, candidate: Any, **known: Any):
    body = config.body_rate
    if method == "target_only":
      body = candidate["weight"]
    optimizer = finetuning.make_optimizer(
      method, candidate, encoder.groups, config.steps, body=body
    )
    student, past = (
      training.Model(encoder.network.forward, x) for x in (student, past)
    )
    return finetuning.make_learner(
      method,
      student,
      past,
      optimizer,
      classes=config.classes,
      on="tokens",
      **known,
    )

  @jax.jit
  def start(student, past, candidate, knowledge, key, batch):
    known = {"weight": candidate["weight"], "knowledge": knowledge}
    return learner_of(student, past, candidate, **known).init(key, batch)

  @jax.jit
  def advance(state, past, candidate, data, plan, key):
    learner = learner_of(None, past, candidate)
    epoch = training.scan_epoch(learner.step)
    state, seen = epoch(state, learner.frozen, data, plan, key)
    total, count = seen["loss"]
    return state, total / count

  return Tuning(start, advance)


def meta_learn(way: str, job: Any, encoder: Encoder) -> training.Variables:
  """Meta-learns on the documents of the source, from the pretrained encoder.

  One network for all seeds, as the pretrained one is.
  """
  config = job.config
  label = job.data.source.label
  arrays = {"tokens": encoder.tokens["source"], "label": label}
  arrays = jax.tree.map(jnp.asarray, arrays)
  steps = config.meta_steps
  optimizer = episodes.outer_optimizer(way, config.meta_rate, steps)
  loss_fn = episodes.make_loss(
    way, encoder.network.forward, config, config.classes, on="tokens"
  )
  epoch = training.scan_epoch(training.make_train_step(loss_fn, optimizer))
  head_key, plan_key, key = jax.random.split(jax.random.key(config.seed), 3)
  head = draw_head(head_key, encoder.width, config.classes)
  variables: Any = encoder.variables
  params, state = (
    {"student": x, "objective": {}} for x in with_head(variables, head)
  )
  plan = episodes.plan_episodes(
    plan_key,
    label,
    steps=steps,
    tasks=config.tasks,
    examples=2 * EPISODE_SHOTS,
  )
  first = training.TrainState(
    jnp.zeros((), jnp.int32), params, state, optimizer.init(params)
  )

  @jax.jit
  def advance(state, arrays, plan, key):
    state, seen = epoch(state, {}, arrays, plan, key)
    return state, training.mean_metrics(seen, axis=0)

  def describe(seen: Any) -> tuple[dict[str, Any], str]:
    loss = float(seen["loss"])
    return {"loss": loss}, f"loss {loss:.3f}"

  found, _ = rounds.train(
    job, f"pretrain_{way}", advance, (arrays,), (first, plan, key), describe
  )
  return found.student
