"""TextBrewer's schedulers of weights over the steps of a training."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops


def weight_schedule(
  kind: str, steps: int, weight: float = 1.0
) -> Callable[[ArrayLike], Array]:
  """Weight schedule: grows or decays linearly over the training.

  Args:
    kind: "linear_decay", from `weight` to 0, "linear_growth", from 0 to
      `weight`, or "constant".
    steps: the number of steps of the training.
    weight: the largest weight.

  Returns:
    An Optax schedule, step -> weight, for a weight of
    `kdjax.methods.combine`.

  Raises:
    ValueError: if the kind is unknown or `steps` is below 1.

  The schedule multiplies the weight, in all steps. TextBrewer's schedule, from
  0 to 1 or from 1 to 0, replaces the configured weight after the first step;
  so does `kdjax.methods.textbrewer`.

  Examples:
    >>> schedule = weight_schedule("linear_decay", 10, 0.5)
    >>> schedule(5)
    Array(0.25, dtype=float32)

  References:
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  ops.check_choice("kind", kind, ("linear_decay", "linear_growth", "constant"))
  ops.check_integer("steps", steps, 1)

  def schedule(step: ArrayLike) -> Array:
    share = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)
    if kind == "constant":
      share = jnp.ones_like(share)
    elif kind == "linear_decay":
      share = 1 - share
    return weight * share

  return schedule
