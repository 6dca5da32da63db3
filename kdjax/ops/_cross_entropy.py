"""Cross-entropy against integer or soft labels."""

import jax.numpy as jnp
from jax.experimental import checkify
from jaxtyping import Array

from kdjax.ops._softmax import log_softened_softmax


def cross_entropy(logits: Array, labels: Array) -> Array:
  """Returns H(labels, softmax(logits)) a row, in nats.

  Args:
    logits: `[*batch, classes]`; a class at -inf is masked and costs nothing
      unless the label asks for it.
    labels: integers `[*batch]` or probabilities `[*batch, classes]`.

  Returns:
    `[*batch]`.
  """
  log_probabilities = log_softened_softmax(logits)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    classes = logits.shape[-1]
    checkify.debug_check(
      jnp.all((labels >= 0) & (labels < classes)),
      f"labels must lie in [0, {classes}); got " + "{}",
      labels,
    )
    chosen = jnp.take_along_axis(log_probabilities, labels[..., None], -1)
    return -jnp.squeeze(chosen, -1)
  used = labels > 0
  return -jnp.sum(labels * jnp.where(used, log_probabilities, 0.0), -1)
