"""Metrics of a network on a batch, and their means over many."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from kdjax import methods, nets, ops
from kdjax.training.steps._checks import check_pairs
from kdjax.training.steps._passes import LossFn, Metrics

Metric = Callable[..., Any] | tuple[Callable[..., Any], Any]


def make_eval_step(
  loss_fn: LossFn,
  metrics: Mapping[str, Metric],
  *,
  axis_name: str | None = None,
) -> Callable[..., Metrics]:
  """Evaluation step: metrics of one batch, as pairs (sum, count).

  Args:
    loss_fn: the passes, in evaluation mode, from `pass_loss`. If its
      objective predicts (SimKD), the student's logits are the prediction.
    metrics: name -> function of arrays, which are bound by their names
      (`logits`, `labels`, `teacher_logits`) as those of a loss are; or
      (function, names of its arguments). It returns one value an example, or
      takes `where` and `axis_name` and returns one for the batch.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `evaluate(state, frozen, batch, *, axis_name=...) -> {name: (sum, count)}`,
    of a `TrainState`.

  Raises:
    TypeError: if `metrics` is no mapping to functions.
    ValueError: from `evaluate`, if the batch lacks an entry that is read,
      `frozen` the teacher, or a metric is not one value an example.

  Examples:
    >>> from kdjax import methods
    >>> from kdjax.metrics import accuracy
    >>> from kdjax.nets import Outputs
    >>> from kdjax.training import TrainState, Variables, pass_loss
    >>> def forward(variables, x, *, train, key):
    ...   return nets.Outputs(x @ variables.params, {}, None), {}
    >>> passes = pass_loss(
    ...   {"student": forward},
    ...   {"student": methods.Pass("student", "x")},
    ...   methods.NO_LOSS,
    ... )
    >>> evaluate = jax.jit(make_eval_step(passes, {"accuracy": accuracy}))
    >>> params = {"student": jnp.eye(3), "objective": {}}
    >>> state = TrainState(0, params, {"student": {}, "objective": {}}, ())
    >>> batch = {
    ...   "x": jnp.eye(3),
    ...   "label": jnp.array([0, 1, 0]),
    ...   "mask": jnp.array([True, True, False]),
    ... }
    >>> evaluate(state, {}, batch)["accuracy"]
    (Array(2., dtype=float32), Array(2., dtype=float32))

  References:
    The (sum, normalizer) metrics of `Scenic
    <https://github.com/google-research/scenic>`_.
  """
  parts = {}
  for name, metric in _as_mapping(metrics).items():
    pair = metric if isinstance(metric, tuple) else (metric, None)
    if len(pair) != 2 or not callable(pair[0]):
      raise TypeError(
        f"make_eval_step: the metric {name} is {metric!r}; expected a function "
        "of arrays, or (function, names of its arguments)."
      )
    parts[name] = methods.stateless(*pair)
  named: ops.AxisName = ops.UNKNOWN_AXIS if axis_name is None else axis_name

  def evaluate(
    state: Any, frozen: Any, batch: Any, *, axis_name: ops.AxisName = named
  ) -> Metrics:
    axis_name = ops.resolve_axis_name("the evaluation", axis_name)
    mesh = ops.explicit_mesh((state, frozen, batch))
    if mesh is not None:
      unnamed = functools.partial(evaluate, axis_name=axis_name)
      arguments = state, frozen, batch
      return ops.in_auto_axes(unnamed, arguments, {}, mesh, PartitionSpec())
    key = jax.random.key(0)  # nothing is random in evaluation
    outputs, _, batch = loss_fn.run(
      state.params, state.state, frozen, batch, key, axis_name=axis_name
    )
    outputs = _answered(loss_fn.objective, state, outputs)

    def measure(metric: methods.Objective) -> tuple[Array, Array]:
      _, _, seen = metric.apply(
        {}, {}, outputs, batch, key, axis_name=axis_name
      )
      return seen["loss"]

    pairs = {name: measure(metric) for name, metric in parts.items()}
    return ops.sum_over_devices(pairs, axis_name)

  return evaluate


def _answered(
  objective: methods.Objective, state: Any, outputs: dict[str, nets.Outputs]
) -> dict[str, nets.Outputs]:
  """The outputs with the student's logits as its objective predicts them."""
  if objective.predict is None or "student" not in outputs:
    return outputs
  own = state.params["objective"], state.state["objective"]
  logits = objective.predict(*own, outputs)
  return outputs | {"student": outputs["student"]._replace(logits=logits)}


def _as_mapping(metrics: Any) -> Mapping[str, Any]:
  if not isinstance(metrics, Mapping):
    raise TypeError(
      f"make_eval_step: metrics is a {type(metrics).__name__}; expected a "
      "mapping, name -> function of arrays."
    )
  return metrics


def mean_metrics(
  metrics: Metrics, *, axis: int | None = None
) -> dict[str, Array]:
  """Means of metrics that are pairs (sum, count).

  Args:
    metrics: name -> (sum, count), arrays of any one shape.
    axis: an axis to sum over first, such as that of an epoch's steps.

  Returns:
    name -> sum / count; 0 where nothing was counted.

  Raises:
    TypeError: if `metrics` is no mapping to pairs.

  Examples:
    >>> metrics = {"loss": (jnp.array([1.0, 5.0]), jnp.array([1, 2]))}
    >>> mean_metrics(metrics, axis=0)
    {'loss': Array(2., dtype=float32)}

  References:
    The (sum, normalizer) metrics of `Scenic
    <https://github.com/google-research/scenic>`_.
  """
  check_pairs("mean_metrics", metrics, "(sum, count)")
  if axis is not None:
    metrics = jax.tree.map(lambda x: jnp.sum(x, axis), metrics)
  return {
    k: total / jnp.maximum(count, 1) for k, (total, count) in metrics.items()
  }
