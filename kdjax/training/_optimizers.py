"""Any Optax optimizer, as a train step calls it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.training._checks import check_optimizer


class AccumulationState(NamedTuple):
  """State of `optax.MultiSteps` whose mini-steps weigh by what they count.

  Attributes:
    count: of the examples (or tokens) since the last update.
    steps: the state of `optax.MultiSteps`.
  """

  count: Array
  steps: Any


def as_optimizer(
  name: str, optimizer: Any
) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer whose update takes any extra arguments.

  A train step gives `value`, `grad` and `value_fn`; an optimizer takes those
  it knows (`optax.contrib.reduce_on_plateau`, `optax.lbfgs`,
  `optax.polyak_sgd`). `optax.MultiSteps` averages over mini-steps, which is
  wrong as soon as their masks differ: its gradients are weighed by the `count`
  of examples or tokens, the second entry of the metric `"loss"`.
  """
  steps = optimizer
  if not isinstance(steps, optax.MultiSteps):
    steps = getattr(getattr(optimizer, "init", None), "__self__", None)
  if isinstance(steps, optax.MultiSteps) and steps._use_grad_mean:
    return _weighted(steps)
  if isinstance(optimizer, optax.MultiSteps):
    optimizer = optimizer.gradient_transformation()
  check_optimizer(name, optimizer)
  return optax.with_extra_args_support(optimizer)


def _weighted(
  steps: optax.MultiSteps,
) -> optax.GradientTransformationExtraArgs:
  """MultiSteps whose mean over mini-steps is that over their examples."""

  def init(params: Any) -> AccumulationState:
    return AccumulationState(jnp.zeros(()), steps.init(params))

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    count: Any = 1.0,
    **extra: Any,
  ) -> tuple[Any, AccumulationState]:
    before = state.steps
    total = state.count + count
    share = count / jnp.maximum(total, 1e-30)
    # MultiSteps adds (gradient - mean) / (n + 1) to its mean: handed this
    # gradient, it adds (gradient - mean) count / total.
    factor = share * (before.mini_step + 1)
    weighted = jax.tree.map(
      lambda new, mean: (mean + (new - mean) * factor).astype(new.dtype),
      updates,
      before.acc_grads,
    )
    updates, after = steps.update(weighted, before, params, **extra)
    emitted = after.gradient_step != before.gradient_step
    skipped = (after.mini_step == before.mini_step) & ~emitted
    total = jnp.where(skipped, state.count, jnp.where(emitted, 0.0, total))
    return updates, AccumulationState(total, after)

  return optax.GradientTransformationExtraArgs(init, update)
