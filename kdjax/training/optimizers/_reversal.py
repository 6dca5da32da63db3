"""Schedules of adversarial training."""

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops


def reversal_schedule(
  steps: ArrayLike,
  *,
  sharpness: ArrayLike = 10.0,
  low: ArrayLike = 0.0,
  high: ArrayLike = 1.0,
) -> optax.Schedule:
  r"""Reversal schedule (DANN, CDAN, MDD): an adversary heard by and by.

  .. math::
    \lambda(t) = \text{low} + (\text{high} - \text{low})
      \Bigl(\frac{2}{1 + e^{-a t / N}} - 1\Bigr)

  The scale of `kdjax.ops.reverse_gradient`, by the step. It belongs
  there and not before the loss, where it would slow the discriminator too.

  Args:
    steps: N > 0. The paper's progress t / N runs from 0 to 1 over the training,
      so N is its number of steps; 10000 in CDAN's code, 1000 in TLlib's.
      May be traced.
    sharpness: a: 10 in the paper, Dassl and CDAN's code; 1 in TLlib and
      DeepDA, which are at 0.46 after N steps, where DeepDA ends and TLlib goes
      on. May be traced.
    low: the scale at step 0. May be traced.
    high: the scale that is approached; 0.1 for MDD in TLlib. May be traced.

  Returns:
    A function of the step, like an Optax schedule; it is not cut off at N.

  Raises:
    ValueError: if a static number of steps is not above 0.

  Examples:
    >>> schedule = reversal_schedule(100)
    >>> [round(float(schedule(step)), 3) for step in (0, 10, 100)]
    [0.0, 0.462, 1.0]

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016, section 5.2.2.
  """
  ops.check_positive("steps", steps)

  def schedule(step: ArrayLike) -> Array:
    progress = jnp.asarray(step, float) / jnp.asarray(steps, float)
    risen = ops.reversal_ramp(progress, sharpness=sharpness)
    first, last = jnp.asarray(low, float), jnp.asarray(high, float)
    return first + (last - first) * risen

  return schedule
