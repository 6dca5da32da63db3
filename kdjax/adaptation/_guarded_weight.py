"""A weight of the transfer term that backs off where transfer does harm."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops._collectives import agreed
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import check_range


class GuardedWeightState(NamedTuple):
  """What :class:`GuardedWeight` remembers.

  Attributes:
    weight: lambda now, a scalar: multiply the transfer loss by it.
    agreement: the running cosine between the two gradients, in [-1, 1].
    divergence: the running d_H; NaN before the first.

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010.
  """

  weight: Float[Array, ""]
  agreement: Float[Array, ""]
  divergence: Float[Array, ""]


class GuardedWeight(NamedTuple):
  r"""Guarded weight: lambda sinks while transfer works against the task.

  .. math::
    \lambda \leftarrow \begin{cases}
      \max(\rho \lambda, \lambda_{\min}) &
        a < -\epsilon \text{ or } d > \bar d + \delta \\
      \min(\lambda / \rho, \lambda_{\max}) & \text{otherwise}
    \end{cases}

  with a the running cosine between the gradients of the task and of the
  transfer loss, d the H-divergence between the domains and d-bar its running
  mean before this step. Two signs of negative transfer that need no target
  label: the transfer term pulls the parameters against the task, or the domains
  move apart in spite of it. Lambda recovers at the rate at which it sank.

  A NamedTuple of numbers, hence a pytree: a sweep may be vmapped over it and
  no number is compiled in. The state is explicit and the update pure.

  Args:
    max_weight: lambda_max > 0, also where lambda starts.
    min_weight: lambda_min >= 0; above 0, lambda can recover.
    shrink: rho in (0, 1).
    tolerance: epsilon, how negative the cosine may be.
    divergence_tolerance: delta, how far d_H may lie above its running
      mean.
    momentum: of both running means, in [0, 1).

  Examples:
    >>> guard = GuardedWeight(max_weight=1.0, shrink=0.5, momentum=0.0)
    >>> state = guard.init()
    >>> task, transfer = jnp.array([1.0, 0.0]), jnp.array([-1.0, 0.1])
    >>> state = guard.update(state, task, transfer)
    >>> print(f"{state.weight:.2f}")  # they disagree
    0.50
    >>> state = guard.update(state, task, -transfer)
    >>> print(f"{state.weight:.2f}")
    1.00
    >>> for value in (0.4, 1.2):  # the domains move apart
    ...   state = guard.update(state, divergence=value)
    >>> print(f"{state.weight:.2f}")
    0.50

  References:
    Ben-David et al., `A theory of learning from different domains
    <https://doi.org/10.1007/s10994-009-5152-4>`_, 2010; Du et al., `Adapting
    auxiliary losses using gradient similarity
    <https://arxiv.org/abs/1812.02224>`_, 2018.
  """

  max_weight: ArrayLike = 1.0
  min_weight: ArrayLike = 1e-3
  shrink: ArrayLike = 0.9
  tolerance: ArrayLike = 0.0
  divergence_tolerance: ArrayLike = 0.1
  momentum: ArrayLike = 0.9

  def init(self) -> GuardedWeightState:
    """Returns the state before the first step: lambda is `max_weight`.

    Raises:
      ValueError: if a static number is out of range.
    """
    check_positive("max_weight", self.max_weight)
    check_range("min_weight", self.min_weight, 0.0, float("inf"))
    check_range("shrink", self.shrink, 0.0, 1.0)
    check_range("momentum", self.momentum, 0.0, 1.0)
    weight = jnp.asarray(self.max_weight, float)
    return GuardedWeightState(
      weight,
      jnp.zeros_like(weight),
      jnp.full_like(weight, jnp.nan),
    )

  def update(
    self,
    state: GuardedWeightState,
    task_gradient: Any = None,
    transfer_gradient: Any = None,
    *,
    divergence: ArrayLike | None = None,
    axis_name: str | None = None,
  ) -> GuardedWeightState:
    """Returns the state after a step.

    Args:
      state: the state so far.
      task_gradient: a pytree, the task loss's gradient by the parameters that
        both losses move (the encoder's), averaged over devices.
      transfer_gradient: a pytree of the same structure: the gradient with
        which the encoder would descend, after any reversal, without lambda.
        None, as for the task, where only a divergence is at hand.
      divergence: d_H of this step, or of this epoch: :func:`h_divergence`
        of held-out features, or a surrogate. None leaves it as it was.
      axis_name: a mapped axis over which gradients and divergence, if they
        are not averaged yet, are averaged first.

    Raises:
      ValueError: if one gradient is given without the other.
    """
    if (task_gradient is None) != (transfer_gradient is None):
      missing = "task" if task_gradient is None else "transfer"
      raise ValueError(
        f"GuardedWeight.update: {missing}_gradient is None; expected both "
        "gradients or neither."
      )
    if task_gradient is None and divergence is None:
      return state
    dtype = state.weight.dtype
    keep = jnp.asarray(self.momentum, dtype)
    agreement, running = state.agreement, state.divergence
    bad = jnp.zeros((), bool)
    if task_gradient is not None:
      task_gradient, transfer_gradient = agreed(
        (task_gradient, transfer_gradient), axis_name
      )
      cosine = _cosine(task_gradient, transfer_gradient).astype(dtype)
      agreement = keep * agreement + (1 - keep) * cosine
      bad |= agreement < -jnp.asarray(self.tolerance, dtype)
    if divergence is not None:
      value = jax.lax.stop_gradient(jnp.asarray(divergence, dtype))
      value = agreed(value, axis_name)
      # A comparison with NaN, before the first, is False.
      bad |= value > running + jnp.asarray(self.divergence_tolerance, dtype)
      mixed = keep * running + (1 - keep) * value
      running = jnp.where(jnp.isnan(running), value, mixed)
    rate = jnp.asarray(self.shrink, dtype)
    largest = jnp.asarray(self.max_weight, dtype)
    smallest = jnp.minimum(jnp.asarray(self.min_weight, dtype), largest)
    moved = jnp.where(bad, state.weight * rate, state.weight / rate)
    return GuardedWeightState(
      jnp.clip(moved, smallest, largest), agreement, running
    )


def _cosine(a: Any, b: Any) -> Float[Array, ""]:
  """Returns the cosine of two pytrees, 0 where one of them is 0."""
  a, b = jax.lax.stop_gradient((a, b))
  leaves_a, structure = jax.tree.flatten(a)
  leaves_b, other = jax.tree.flatten(b)
  shapes = [jnp.shape(x) for x in leaves_a], [jnp.shape(x) for x in leaves_b]
  if structure != other or shapes[0] != shapes[1]:
    raise ValueError(
      f"GuardedWeight.update: transfer_gradient has structure {other}, shapes "
      f"{shapes[1]}; expected {structure}, {shapes[0]}, as in task_gradient."
    )
  pairs = [
    (jnp.asarray(x), jnp.asarray(y))
    for x, y in zip(leaves_a, leaves_b, strict=True)
  ]

  def largest(which: int) -> Array:
    return jnp.stack(
      [
        jnp.max(jnp.abs(pair[which]).astype(compute_dtype(pair[which])))
        for pair in pairs
      ]
    ).max()

  # Scaled first, so that squares neither overflow nor vanish.
  tops = largest(0), largest(1)
  ok = (tops[0] > 0) & (tops[1] > 0)
  dot, square_a, square_b = (jnp.zeros((), tops[0].dtype) for _ in range(3))
  for x, y in pairs:
    x = x.astype(compute_dtype(x)) / jnp.where(ok, tops[0], 1.0)
    y = y.astype(compute_dtype(y)) / jnp.where(ok, tops[1], 1.0)
    dot += jnp.sum(x * y)
    square_a += jnp.sum(x * x)
    square_b += jnp.sum(y * y)
  norm = jnp.sqrt(square_a) * jnp.sqrt(square_b)
  return jnp.where(ok, dot / jnp.where(ok, norm, 1.0), 0.0)
