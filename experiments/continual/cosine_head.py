"""The classifier of LUCIR and PODNet: its new classes, and LUCIR's margins."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.continual.networks import Setting, cosines, make_network
from kdjax import continual, training
from kdjax.ops import masked_mean, safe_norm, unit_vectors


def margin_loss(
  student_embeddings: jax.Array,
  student_classifier: Any,
  labels: jax.Array,
  *,
  new_classes: jax.Array,
  where: jax.Array,
  axis_name: str | None,
) -> jax.Array:
  """LUCIR's margin loss, a mean over the replayed examples of the batch."""
  found = cosines(student_embeddings, student_classifier[0])
  new = jnp.broadcast_to(new_classes > 0.5, found.shape[-1:])
  losses = continual.lucir_margin_loss(found, labels, new)
  return masked_mean(losses, where & ~new[labels], axis_name=axis_name)


def imprint(
  name: str, setting: Setting, state: training.TrainState, task: Any
) -> training.TrainState:
  """Sets the weights of new classes to the directions of their images.

  They are as long as those of past classes are on average. Nothing happens
  before the first task.
  """
  student, labels = state.student, task.data["label"]
  outputs, _ = make_network(setting, name).forward(
    student, task.data["image"], train=False, key=None
  )
  real = jnp.arange(len(labels)) < task.size
  members = jax.nn.one_hot(labels, setting.classes) * real[:, None]
  embeddings: Any = outputs.embedding
  means = unit_vectors(members.T @ unit_vectors(embeddings))
  head = student.params["head"]
  norms = safe_norm(head["kernel"], axis=0)
  past = jnp.sum(task.past)
  norm = jnp.sum(norms * task.past) / jnp.maximum(past, 1)
  known = jnp.any(means != 0, -1) & (past > 0)
  kernel = jnp.where(known, norm * means.T, head["kernel"])
  params = student.params | {"head": head | {"kernel": kernel}}
  return state._replace(params=state.params | {"student": params})
