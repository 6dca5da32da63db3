"""Cross-entropy with integer or soft labels."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from kdjax.ops.probabilities._softmax import compute_dtype, log_softened_softmax
from kdjax.ops.validation._debug_checks import debug_check
from kdjax.ops.validation._validation import validate


@validate
def cross_entropy(
  logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  """Returns H(labels, softmax(logits)) for each row, in nats.

  Args:
    logits: `[*batch, classes]`. A class at -inf is masked: it adds no loss
      except to rows with its label.
    labels: integers `[*batch]` or probabilities `[*batch, classes]`.

  Returns:
    `[*batch]`. With integer labels, a likelihood of 1 - 1e-9 gives 1e-9, not 0,
    and a label out of range gives NaN, without gradient.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    log_probabilities = log_softened_softmax(logits)
    used = labels != 0
    return -jnp.sum(labels * jnp.where(used, log_probabilities, 0.0), -1)
  given, labels = labels, check_labels(labels, logits.shape[-1])
  logits = logits.astype(compute_dtype(logits))
  # log(1 + sum over the other classes of exp(z_c - z_y)). Subtracting the
  # maximum first keeps the differences of logits around 1e4.
  top = jnp.max(logits, axis=-1, keepdims=True)
  logits -= jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0.0, top))
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  is_own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(is_own, -jnp.inf, logits)
  # With a single unmasked class, the gradient of logsumexp would be NaN.
  alone = jnp.all(others == -jnp.inf, axis=-1)
  others = jax.nn.logsumexp(jnp.where(alone[..., None], 0.0, others), axis=-1)
  masked = own == -jnp.inf
  loss = jnp.logaddexp(0.0, others - jnp.where(masked, 0.0, own))
  loss = jnp.where(masked, jnp.inf, jnp.where(alone, 0.0, loss))
  return mask_unknown_labels(loss, given, logits.shape[-1])


def check_labels(
  labels: Array, num_classes: int, name: str = "labels"
) -> Array:
  """Checks the range of integer labels, under `kdjax.ops.checked`.

  Args:
    labels: integers, or probabilities, which are not checked.
    num_classes: the number of classes.
    name: the name of the argument, for the error message.

  Returns:
    The labels, with 0 for labels out of range. Mask the values computed from
    those by `mask_unknown_labels`.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    return labels  # probabilities
  known = (labels >= 0) & (labels < num_classes)
  debug_check(
    lambda: known,
    f"{name} must lie in [0, {num_classes}); got " + "{}",
    labels,
  )
  return jnp.where(known, labels, 0)


def one_hot_labels(
  labels: Array,
  num_classes: int,
  dtype: Any,
  mask: Array | None = None,
  name: str = "labels",
) -> Array:
  """Returns one-hot rows: 0 where masked, NaN where a label is out of range.

  A row of 0 for such a label would leave its example out without a word.

  Args:
    labels: integers `[*batch]`.
    num_classes: the number of classes.
    dtype: the dtype of the rows.
    mask: nonzero or True for the rows to use, `[*batch]`; None for all.
    name: the name of the argument, for the error message.

  Returns:
    `[*batch, classes]`.
  """
  if mask is not None:
    labels = jnp.where(mask != 0, labels, 0)
  known = check_labels(labels, num_classes, name)
  rows = jax.nn.one_hot(known, num_classes, dtype=dtype)
  if mask is not None:
    rows = jnp.where(jnp.expand_dims(mask != 0, -1), rows, 0.0)
  return jnp.where(jnp.expand_dims(known == labels, -1), rows, jnp.nan)


def mask_unknown_labels(
  values: Array, labels: Array, num_classes: int
) -> Array:
  """Returns the values, NaN without gradient where a label is out of range.

  The gradient of such a row is 0, so that a later mask of the row does not give
  0 times NaN. With `jax_debug_nans` the value is inf instead of NaN.

  Args:
    values: one value a row, `[*batch]`.
    labels: integers `[*batch]`, or probabilities, which are not masked.
    num_classes: the number of classes.

  Returns:
    `[*batch]`.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    return values
  # With `jax_debug_nans`, NaN would stop a program that masks the row later.
  flags: Any = jax.config  # whose attributes have no types
  unknown = jnp.inf if flags.jax_debug_nans else jnp.nan
  return jnp.where((labels >= 0) & (labels < num_classes), values, unknown)
