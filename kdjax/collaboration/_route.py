"""Route-constrained teachers: checkpoints along the teacher's path."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from kdjax import ops


def route_anchor(
  step: ArrayLike, *, steps: int, num_anchors: int
) -> Int[Array, ""]:
  r"""Route-constrained optimization (RCO): the checkpoint that teaches now.

  .. math:: k(t) = \min(\lfloor t K / T \rfloor, K - 1)

  The student learns from checkpoints of the teacher's own training, from an
  early one to the last one, each for an equal share of the steps (the authors'
  strategy of equal epoch intervals).

  Args:
    step: t, from 0 on. May be traced.
    steps: T, of the student's training.
    num_anchors: K, the number of checkpoints, the teacher at its end included.

  Returns:
    The place of the checkpoint, from 0 to K - 1; K - 1 beyond the last step.

  Raises:
    ValueError: if steps or num_anchors are below 1.
    TypeError: if they are no integers.

  Examples:
    >>> [int(route_anchor(t, steps=6, num_anchors=3)) for t in range(7)]
    [0, 0, 1, 1, 2, 2, 2]

  References:
    Jin et al., `Knowledge distillation via route constrained optimization
    <https://arxiv.org/abs/1904.09149>`_, 2019.
  """
  ops.check_integer("route_anchor: steps", steps, 1)
  ops.check_integer("route_anchor: num_anchors", num_anchors, 1)
  now = ops.as_number("step", step, jnp.int32)
  anchor = now * num_anchors // steps
  return jnp.minimum(anchor, num_anchors - 1).astype(jnp.int32)
