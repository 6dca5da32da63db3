"""Ramp-up schedules of a loss weight."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def sigmoid_ramp_up(step: ArrayLike, *, length: ArrayLike) -> Float[Array, ""]:
  r"""Sigmoid ramp-up of a loss weight, from 0.0067 to 1.

  .. math:: w(t) = \exp\bigl(-5 (1 - \min(t / T, 1))^2\bigr)

  Args:
    step: t, the number of steps or epochs so far. May be traced.
    length: T >= 0, the step at which the weight reaches 1; 0 for no ramp. May
      be traced.

  Returns:
    A scalar, in (0, 1]. Published lengths: 80 epochs (Laine and Aila), 5
    (Dassl), 10 (TLlib).

  Raises:
    ValueError: if a static length is negative.

  Examples:
    >>> print(f"{sigmoid_ramp_up(0, length=5):.4f}")
    0.0067
    >>> print(f"{sigmoid_ramp_up(9, length=5):.4f}")
    1.0000

  References:
    Laine and Aila, `Temporal ensembling
    <https://arxiv.org/abs/1610.02242>`_, 2017.
  """
  return jnp.exp(-5.0 * jnp.square(1.0 - linear_ramp_up(step, length=length)))


@ops.validate
def linear_ramp_up(step: ArrayLike, *, length: ArrayLike) -> Float[Array, ""]:
  r"""Linear ramp-up of a loss weight (MixMatch).

  .. math:: w(t) = \min(\max(t / T, 0), 1)

  Args:
    step: t, the number of steps or epochs so far. May be traced.
    length: T >= 0, the step at which the weight reaches 1; 0 for no ramp. May
      be traced.

  Returns:
    A scalar in [0, 1]. Published length: 16,000 steps (MixMatch), 20,000
    (Dassl).

  Raises:
    ValueError: if a static length is negative.

  Examples:
    >>> print(linear_ramp_up(1, length=4), linear_ramp_up(9, length=4))
    0.25 1.0

  References:
    Berthelot et al., `MixMatch <https://arxiv.org/abs/1905.02249>`_, 2019.
  """
  ops.check_range("length", length, 0.0, float("inf"))
  step, length = (jnp.asarray(x, float) for x in (step, length))
  whole = jnp.where(length > 0, length, 1.0)
  return jnp.where(length > 0, jnp.clip(step / whole, 0.0, 1.0), 1.0)
