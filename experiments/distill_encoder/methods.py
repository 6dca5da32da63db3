"""The methods: which teacher a student sees, and what it compares."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.frame.objectives import own_objective
from kdjax import cross_modal, training
from kdjax import methods as kmethods
from kdjax.distillation import cosine_embedding_loss
from kdjax.methods import Objective, stateless
from kdjax.nets import Outputs

# Methods that compare embeddings of sentences, which are cached, and those that
# compare the insides of both networks. A sentence encoder has no logits: the
# parts of a method that compare these are left out.
EMBEDDINGS = ("l2", "rkd", "pkt", "cross_modal_relations")
INSIDES = ("distilbert", "tinybert", "minilm", "minilm_v2", "pkd")
METHODS = ("cosine", *EMBEDDINGS, *INSIDES, "neighbors")
NAMES = {
  "cosine": "cosine",
  "l2": "mean squared error",
  "rkd": "RKD",
  "pkt": "PKT",
  "cross_modal_relations": "similarities (SP)",
  "distilbert": "hidden states (DistilBERT)",
  "tinybert": "TinyBERT",
  "minilm": "MiniLM",
  "minilm_v2": "MiniLMv2",
  "pkd": "first tokens (PKD)",
  "neighbors": "without teacher",
}
SCALE = 20.0  # of the similarities of neighbors, as sentence-transformers has


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  rows = {
    "cosine": ("distillation", "the cosine of both embeddings of a sentence"),
    "neighbors": ("no teacher", "a sentence finds the next of its document"),
  }
  for name in (*EMBEDDINGS, *INSIDES):
    row = kmethods.describe(name)
    rows[name] = (row.area, row.summary)
  return {name: rows[name] for name in METHODS}


def make_objective(
  method: str, teacher: training.Model
) -> Objective | kmethods.Method:
  """The method's own part of the published loss."""
  options = {}
  match method:
    case "cosine":
      return stateless(_cosine)
    case "neighbors":
      names = ("student_embeddings", "student_following_embeddings")
      return stateless(cross_modal.clip_loss, names, scale=SCALE)
    case "tinybert":
      return kmethods.create(method).before["initialization"]
    case "minilm_v2":
      # The published 48 where they divide the width, which a student shares.
      params: Any = teacher.variables.params
      width = params["tokens"].shape[-1]
      options = {"relation_heads": math.gcd(48, width)}
  return own_objective(method, **options)


def make_learner(
  method: str,
  student: training.Network,
  teacher: training.Model,
  optimizer: optax.GradientTransformation,
) -> training.Learner:
  """A learner of batches with tokens and the teacher's embeddings."""
  objective = make_objective(method, teacher)
  if method == "neighbors":
    views = {"following": lambda key, batch: batch["following"]}
    return training.distill(
      student, None, objective, optimizer, on="tokens", views=views
    )
  if method in INSIDES:
    return training.distill(student, teacher, objective, optimizer, on="tokens")
  return training.distill(
    student,
    training.Model(_recall, training.Variables({}, {})),
    objective,
    optimizer,
    on={"student": "tokens", "teacher": "teacher_embedding"},
  )


def _recall(variables: Any, inputs: Any, *, train: bool, key: Any) -> Any:
  """The forward of a teacher whose embeddings come with the batch."""
  del train, key
  logits: Any = None
  return Outputs(logits, {}, inputs), variables.state


def _cosine(
  student_embeddings: jax.Array,
  teacher_embeddings: jax.Array,
  *,
  where: jax.Array,
  axis_name: Any,
) -> jax.Array:
  """DistilBERT's loss of the embeddings, as if each were a token."""
  pair = (x[:, None] for x in (student_embeddings, teacher_embeddings))
  return cosine_embedding_loss(*pair, where=where, axis_name=axis_name)


def make_optimizer(rate: float, steps: int) -> optax.GradientTransformation:
  """Adam; the rate rises over a tenth of the steps and falls by a cosine."""
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, rate, max(1, steps // 10), steps
  )
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def unit(embeddings: jax.Array) -> jax.Array:
  """Embeddings of length 1."""
  return embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
