"""Log-probabilities of labels, of text of the student."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops


def own_log_probs(
  student_logits: Array, teacher_logits: Array, labels: Array, batch: Any
) -> tuple[Array, Array, Array]:
  """Returns the labels' log-probabilities: student, teacher, when drawn."""
  student, teacher = (
    label_log_probs(x, labels)
    for x in (student_logits, jax.lax.stop_gradient(teacher_logits))
  )
  sampling = batch.get("sampling_log_prob")
  if sampling is None:
    sampling = jax.lax.stop_gradient(student)
  return student, teacher, sampling


def label_log_probs(logits: Array, labels: Array) -> Array:
  safe = jnp.clip(labels, 0, logits.shape[-1] - 1)[..., None]
  return jnp.take_along_axis(ops.log_softened_softmax(logits), safe, -1)[..., 0]
