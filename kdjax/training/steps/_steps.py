"""Train steps: pure functions that the caller compiles.

One step gives the same numbers under `jax.jit`, `jax.pmap` and
`jax.shard_map`. The mapped axis is named where the step is made, and handed
down: to the networks' batch statistics, to the loss and to the metrics.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from kdjax import methods, ops
from kdjax.training.networks._models import takes_axis_name
from kdjax.training.optimizers._optimizers import (
  AccumulationState,
  Optimizer,
  as_optimizer,
)
from kdjax.training.steps._averaged_student import averaged_student, has_average
from kdjax.training.steps._checks import check_loss
from kdjax.training.steps._passes import LossFn, Metrics
from kdjax.training.steps._state import TrainState


@runtime_checkable
class Step(Protocol):
  """A train step: `step(state, frozen, batch, key) -> state, metrics`."""

  def __call__(
    self,
    state: Any,
    frozen: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: ops.AxisName = ops.UNKNOWN_AXIS,
  ) -> tuple[Any, Metrics]: ...


def make_train_step(
  loss_fn: Callable[..., Any],
  optimizer: Optimizer,
  *,
  axis_name: str | None = None,
  update: methods.Update | None = None,
) -> Step:
  """Train step: one update of the trained networks and the objective.

  Args:
    loss_fn: `(params, state, frozen, batch, key, *, axis_name=None) -> loss,
      (state, metrics)`, such as `pass_loss` builds. Over `axis_name` its
      loss is that of the whole batch, its state the same on every device, and
      its metrics are pairs (sum, count) of one device's examples. A loss
      without the parameter `axis_name` is for one device.
    optimizer: an Optax optimizer. It gets the extra arguments `value`, `grad`
      and `value_fn`, if it takes them, and `optax.MultiSteps` weighs its
      mini-steps by their count of examples.
    axis_name: the mapped axis that holds the rest of the batch, under
      `jax.pmap` and `jax.shard_map`; none under `jax.jit`, sharded or not.
      `parallelize` names it itself. A step that is mapped over a named
      axis without being told raises, unless it is called with
      `axis_name=None`: each part of the axis is then a student of its own.
    update: the way from the loss to the updates; by default the optimizer's
      step along the gradient.

  Returns:
    `step(state, frozen, batch, key, *, axis_name=...) -> state, metrics`, a
    pure function. The key may be the same at every step: the step's number is
    folded in. If the optimizer has `parameter_ema`, `frozen["average"]`
    is the student with the average of its parameters.

  Raises:
    TypeError: if `loss_fn` takes other arguments, as a step does, or the
      optimizer is not one of Optax.
    ValueError: from `step`, if the loss is no scalar, or takes no `axis_name`
      although there is one, or if the step is mapped over an axis that it was
      not told.

  Examples:
    >>> def loss_fn(params, state, frozen, batch, key):
    ...   return (params - batch["target"]) ** 2, (state, {})
    >>> optimizer = optax.sgd(0.25)
    >>> step = jax.jit(make_train_step(loss_fn, optimizer))
    >>> params = jnp.array(0.0)
    >>> state = TrainState(jnp.array(0), params, {}, optimizer.init(params))
    >>> batch = {"target": jnp.array(2.0)}
    >>> state, metrics = step(state, {}, batch, jax.random.key(0))
    >>> state.params
    Array(1., dtype=float32)

  References:
    `The training cookbook of JAX
    <https://docs.jax.dev/en/latest/the-training-cookbook.html>`_.
  """
  name = "make_train_step"
  check_loss(name, loss_fn)
  transformation = as_optimizer(name, optimizer)
  rule = GRADIENT if update is None else update
  parted = isinstance(loss_fn, LossFn)
  named: ops.AxisName = ops.UNKNOWN_AXIS if axis_name is None else axis_name

  def step(
    state: TrainState,
    frozen: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: ops.AxisName = named,
  ) -> tuple[TrainState, Metrics]:
    axis_name = ops.resolve_axis_name("the step", axis_name)
    mesh = ops.explicit_mesh((state, frozen, batch))
    if mesh is not None:  # Networks and optimizers know no Explicit axes.
      unnamed = functools.partial(step, axis_name=axis_name)
      result = ops.partitions(state), PartitionSpec()
      arguments = state, frozen, batch, key
      return ops.in_auto_axes(unnamed, arguments, {}, mesh, result)
    key = jax.random.fold_in(key, state.step)
    frozen = with_average(state, frozen)
    options = {}
    if takes_axis_name(loss_fn):
      options["axis_name"] = axis_name
    elif axis_name is not None:
      raise ValueError(
        f"{name}: loss_fn takes no axis_name, and the step is mapped over "
        f"{axis_name!r}; expected loss_fn(params, state, frozen, batch, key, "
        "*, axis_name=None), which reduces its loss over that axis."
      )
    before = state.state

    def loss(
      params: Any, batch: Any, *, part: Any = None, state: Any = None
    ) -> tuple[Array, tuple[Any, Metrics]]:
      own = options | ({"part": part} if parted else {})
      now = before if state is None else state
      value, aux = loss_fn(params, now, frozen, batch, key, **own)
      # Averaging the loss inside and the gradients outside is right under
      # vmap, pmap and shard_map alike. Gradients alone are not: shard_map has
      # already summed those of replicated parameters.
      return ops.mean_over_devices(value, axis_name), aux

    taken = _over_devices(transformation, loss, batch, axis_name)
    rule_key = jax.random.fold_in(key, 1)
    mapped = {"axis_name": axis_name} if takes_axis_name(rule.apply) else {}
    (_, (moved, metrics)), updates, optimizer_state = rule.apply(
      loss,
      state.params,
      batch,
      rule_key,
      state.optimizer_state,
      taken,
      **mapped,
    )
    metrics = ops.sum_over_devices(metrics, axis_name)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, moved, optimizer_state), metrics

  if isinstance(loss_fn, LossFn):
    # `parallelize` splits the examples, not the domains that a loss compares.
    axes = [row.batch_axes for row in loss_fn.passes.values()]
    vars(step)["batch_axis"] = max(axes, default=1) - 1
  return step


def _over_devices(
  optimizer: optax.GradientTransformationExtraArgs,
  loss: Callable[..., Any],
  batch: Any,
  axis_name: str | None,
) -> optax.GradientTransformationExtraArgs:
  """The optimizer on gradients of all devices, with its extra arguments.

  `seen` is what the loss returned beside the gradients.
  """

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    seen: Any = None,
    **extra: Any,
  ) -> tuple[Any, Any]:
    updates, extra = ops.mean_over_devices((updates, extra), axis_name)
    if seen is not None:
      value, (_, metrics) = seen
      extra["value"] = jnp.sum(value)
      if isinstance(state, AccumulationState):
        counted = metrics["loss"][1] if "loss" in metrics else jnp.ones(())
        extra["count"] = ops.sum_over_devices(counted, axis_name)
      extra["value_fn"] = lambda params: jnp.sum(
        loss(_with_mean_gradient(params, axis_name), batch)[0]
      )
    return optimizer.update(updates, state, params, grad=updates, **extra)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _with_mean_gradient(params: Any, axis_name: str | None) -> Any:
  """The parameters, whose gradient is averaged over the devices.

  A line search takes gradients itself. Were they those of one device's part,
  the devices would search on for unequally long, and wait for each other.
  """
  if axis_name is None:
    return params

  @jax.custom_vjp
  def identity(params: Any) -> Any:
    return params

  identity.defvjp(
    lambda params: (params, None),
    lambda _, slopes: (ops.mean_over_devices(slopes, axis_name),),
  )
  return identity(params)


def _gradient_step(
  loss: Callable[..., Any],
  params: Any,
  batch: Any,
  key: Array,
  state: Any,
  optimizer: Any,
) -> tuple[tuple[Array, Any], Any, Any]:
  """The optimizer's step along the loss's own gradient."""
  del key

  def scalar(params: Any) -> tuple[Array, Any]:
    value, aux = loss(params, batch)
    if jnp.shape(value):
      raise ValueError(
        f"make_train_step: loss_fn returned a loss of shape {value.shape}; "
        "expected a scalar. Several losses need an update of their own, as "
        "those of DOT have."
      )
    return value, aux

  seen, gradients = jax.value_and_grad(scalar, has_aux=True)(params)
  updates, state = optimizer.update(gradients, state, params, seen=seen)
  return seen, updates, state


GRADIENT = methods.Update(
  lambda params, optimizer: optimizer.init(params), _gradient_step
)


def with_average(state: TrainState, frozen: Any) -> Any:
  """Puts the average of the student beside the frozen networks."""
  frozen = frozen or {}
  averaged = has_average(state.optimizer_state)
  if not isinstance(frozen, Mapping) or not averaged:
    return frozen
  if isinstance(state.params, Mapping) and "student" not in state.params:
    return frozen  # Of peers or towers there is no single average.
  return {**frozen, "average": averaged_student(state)}
