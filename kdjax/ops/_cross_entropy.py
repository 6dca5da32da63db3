"""Cross-entropy against integer or soft labels."""

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jaxtyping import Array

from kdjax.ops._softmax import compute_dtype
from kdjax.ops._softmax import log_softened_softmax


def cross_entropy(logits: Array, labels: Array) -> Array:
  """Returns H(labels, softmax(logits)) a row, in nats.

  Args:
    logits: `[*batch, classes]`; a class at -inf is masked and costs nothing
      unless the label asks for it.
    labels: integers `[*batch]` or probabilities `[*batch, classes]`.

  Returns:
    `[*batch]`. A likelihood of 1 - 1e-9 gives 1e-9, not 0, for integer labels;
    NaN without gradient for one that is no class.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    log_probabilities = log_softened_softmax(logits)
    used = labels != 0
    return -jnp.sum(labels * jnp.where(used, log_probabilities, 0.0), -1)
  given, labels = labels, check_labels(labels, logits.shape[-1])
  logits = logits.astype(compute_dtype(logits))
  # log(1 + sum over others of exp(z_c - z_y)). Subtracting first is exact
  # where it matters; logits of 1e4 keep their gaps.
  top = jnp.max(logits, axis=-1, keepdims=True)
  logits -= jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0.0, top))
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  is_own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(is_own, -jnp.inf, logits)
  # Nothing else to choose: logsumexp of nothing has no gradient to give.
  alone = jnp.max(others, axis=-1) == -jnp.inf
  others = jax.nn.logsumexp(jnp.where(alone[..., None], 0.0, others), axis=-1)
  masked = own == -jnp.inf
  loss = jnp.logaddexp(0.0, others - jnp.where(masked, 0.0, own))
  loss = jnp.where(masked, jnp.inf, jnp.where(alone, 0.0, loss))
  return mask_unknown_labels(loss, given, logits.shape[-1])


def check_labels(labels: Array, classes: int, name: str = "labels") -> Array:
  """Checks integer labels, inside `kdjax.ops.checked`.

  Args:
    labels: integers, or probabilities, which pass unchecked.
    classes: the number of classes.
    name: of the argument, for the message.

  Returns:
    The labels, 0 in place of these; what becomes of it is not to be used, see
    `mask_unknown_labels`.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    return labels  # soft ones
  known = (labels >= 0) & (labels < classes)
  checkify.debug_check(
    jnp.all(known),
    f"{name} must lie in [0, {classes}); got " + "{}",
    labels,
  )
  return jnp.where(known, labels, 0)


def mask_unknown_labels(values: Array, labels: Array, classes: int) -> Array:
  """Returns the values of rows, NaN without gradient where a label is no class.

  A row that is masked later gets a gradient of 0, not of 0 times NaN.

  Args:
    values: one value a row, `[*batch]`.
    labels: integers `[*batch]`, or probabilities, which mask nothing.
    classes: the number of classes.

  Returns:
    `[*batch]`.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    return values
  return jnp.where((labels >= 0) & (labels < classes), values, jnp.nan)
