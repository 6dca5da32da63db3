"""Softmax with a temperature, and masks of classes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops.validation._checks import as_number, check_positive
from kdjax.ops.validation._debug_checks import debug_check
from kdjax.ops.validation._validation import validate


@validate
def softened_softmax(
  logits: Float[Array, "..."],
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
  r"""Softened softmax: class probabilities at a temperature.

  .. math::
    q_i = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

  Args:
    logits: z, `[..., classes]` for the default axis. A logit of -inf has
      probability 0.
    temperature: T > 0, a number or one value a row (the shape of `logits`
      without the class axis). May be traced.
    axis: the class axis.
    where: True for the classes to use, broadcastable to `logits`. The other
      classes have probability 0; a row without classes is 0.

  Returns:
    Probabilities in the shape of `logits`; float32 for half-precision logits.

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if `logits` are not floating-point.

  Examples:
    >>> softened_softmax(jnp.array([0.0, 0.0]), temperature=4.0)
    Array([0.5, 0.5], dtype=float32)

  References:
    Hinton, Vinyals and Dean, `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015, equation 1.
  """
  return jnp.exp(
    log_softened_softmax(
      logits, temperature=temperature, axis=axis, where=where
    )
  )


@validate
def log_softened_softmax(
  logits: Float[Array, "..."],
  *,
  temperature: ArrayLike = 1.0,
  axis: int = -1,
  where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
  r"""Logarithm of the softened softmax: log-probabilities at a temperature.

  .. math::
    \log q_i = z_i / T - \log \sum_j \exp(z_j / T)

  Args:
    logits: z, `[..., classes]` for the default axis.
    temperature: T > 0, a number or one value a row. May be traced.
    axis: the class axis.
    where: True for the classes to use, broadcastable to `logits`.

  Returns:
    Log-probabilities in the shape of `logits`; -inf, with gradient 0, for
    masked classes.

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if `logits` are not floating-point.

  Examples:
    >>> log_softened_softmax(jnp.array([1e4, 0.0]), temperature=2.0)
    Array([    0., -5000.], dtype=float32)

  References:
    Hinton, Vinyals and Dean, `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015, equation 1.
  """
  logits = mask_classes(logits, where)
  scale = row_temperature(temperature, logits, axis)
  support = logits != -jnp.inf  # True for NaN, which must reach the caller
  # Subtract the maximum before the division, which would round it.
  shift = jax.lax.stop_gradient(
    jnp.max(logits, axis, keepdims=True, where=support, initial=-jnp.inf)
  )
  shifted = jnp.where(support, logits - shift, 0.0) / scale
  total = jnp.sum(jnp.exp(shifted), axis, keepdims=True, where=support)
  # A row without classes has the total 0; log 1 keeps its gradient finite.
  log_total = jnp.log(jnp.where(total == 0, 1.0, total))
  return jnp.where(support, shifted - log_total, -jnp.inf)


def compute_dtype(array: Array) -> jnp.dtype:
  """Returns float32 for half precision and the array's own dtype otherwise.

  Args:
    array: a floating-point array.

  Returns:
    The dtype to compute in.
  """
  return jnp.promote_types(array.dtype, jnp.float32)


def mask_classes(logits: Array, where: Array | None) -> Array:
  """Returns the logits in float32 or wider, -inf where masked.

  Args:
    logits: `[*batch, classes]`.
    where: True for the classes to use, broadcastable to the logits; None for
      all.

  Returns:
    `[*batch, classes]`.
  """
  logits = logits.astype(compute_dtype(logits))
  if where is None:
    return logits
  try:
    where = jnp.broadcast_to(where, logits.shape)
  except ValueError:
    raise ValueError(
      f"where has shape {where.shape}; expected a shape that broadcasts to "
      f"{logits.shape}, the shape of the logits."
    ) from None
  return jnp.where(where, logits, -jnp.inf)


def row_temperature(temperature: ArrayLike, logits: Array, axis: int) -> Array:
  """Returns the temperature in a shape that divides the logits.

  Args:
    temperature: above 0, a scalar or one value a row.
    logits: the logits to divide.
    axis: the class axis.

  Returns:
    A scalar, or an array that broadcasts to the logits.
  """
  check_positive("temperature", temperature)
  rows = list(logits.shape)
  if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
    raise TypeError(f"axis is {axis!r}; expected an integer.")
  if not -len(rows) <= axis < len(rows):
    raise ValueError(
      f"axis is {axis}; expected an axis of the logits, which have shape "
      f"{logits.shape}."
    )
  del rows[axis]
  scale = as_number(
    "temperature", temperature, compute_dtype(logits), shape=tuple(rows)
  )
  debug_check(lambda: scale > 0, "temperature must be above 0; got {}", scale)
  return jnp.expand_dims(scale, axis) if scale.ndim else scale
