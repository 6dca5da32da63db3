"""Any Optax optimizer, as a train step calls it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

# A learner takes both: `optax.MultiSteps` is no transformation itself.
Optimizer = optax.GradientTransformation | optax.MultiSteps


class AccumulationState(NamedTuple):
  """State of `optax.MultiSteps` with mini-steps weighted by their examples.

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
  if isinstance(steps, optax.MultiSteps):
    if getattr(steps, "_use_grad_mean", True):
      return _weighted(steps)
    update: Any = steps.update
    return optax.GradientTransformationExtraArgs(steps.init, update)
  check_optimizer(name, optimizer)
  return _unaccumulated(name, optax.with_extra_args_support(optimizer))


def _unaccumulated(
  name: str, optimizer: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
  """Refuses a chain with MultiSteps, which does not know the counts."""

  def is_known(x: Any) -> bool:  # Mini-steps that have their counts are fine.
    return isinstance(x, optax.MultiStepsState | AccumulationState)

  def is_steps(x: Any) -> bool:
    return isinstance(x, optax.MultiStepsState)

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    if any(map(is_steps, jax.tree.leaves(state, is_leaf=is_known))):
      raise ValueError(
        f"{name}: the optimizer has optax.MultiSteps inside; expected it "
        "around all other links, optax.MultiSteps(optax.chain(...), k), where "
        "each mini-step has the weight of its examples or tokens."
      )
    return optimizer.update(updates, state, params, **extra)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


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
    if not isinstance(state, AccumulationState):
      raise ValueError(
        f"the optimizer's state is a {type(state).__name__}; expected that of "
        "a learner's init, which also counts the examples of mini-steps."
      )
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


def check_optimizer(name: str, value: Any) -> None:
  """Raises TypeError unless it has the functions of a transformation."""
  if not all(callable(getattr(value, k, None)) for k in ("init", "update")):
    raise TypeError(
      f"{name}: optimizer is a {type(value).__name__}; expected an Optax "
      "transformation, such as optax.adam(1e-3)."
    )
