"""What a network is worth on a batch, and the means over many."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.objectives._objective import batch_mean
from kdjax.ops import get_entry
from kdjax.ops import sum_over_devices
from kdjax.training._checks import check_pairs
from kdjax.training._checks import reading_teacher
from kdjax.training._models import Forward
from kdjax.training._models import Variables
from kdjax.training._models import run_forward
from kdjax.training._steps import Metrics
from kdjax.training._teachers import CachedTeacher
from kdjax.training._teachers import answer
from kdjax.training._teachers import check_parts


def make_eval_step(
  student: Forward,
  metrics: Mapping[str, tuple[Callable[..., Array], Callable[..., Any]]],
  teacher: Forward | CachedTeacher | None = None,
  *,
  axis_name: str | None = None,
) -> Callable[[Variables, Any, Any], Metrics]:
  """Evaluation step: metrics of one batch, as pairs (sum, count).

  Args:
    student: the forward of the network to evaluate.
    metrics: name -> (function, selector), with the selectors of
      :mod:`kdjax.objectives`; `function(*selector(student, teacher, batch))`
      returns one value an example.
    teacher: the teacher's forward, with the variables `frozen["teacher"]`, or
      a :class:`CachedTeacher`; for metrics that compare.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `evaluate(variables, frozen, batch) -> {name: (sum, count)}`.

  Raises:
    TypeError: if student or teacher is not a forward but, say, a `Model`,
      or `metrics` not a mapping to pairs of functions.
    ValueError: from `evaluate`, if the batch lacks an entry that is read,
      `frozen` the teacher, or a metric is not one value an example.

  Examples:
    >>> from kdjax.metrics import accuracy
    >>> from kdjax.nets import Outputs
    >>> from kdjax.objectives import select_supervised
    >>> def forward(variables, x, *, train, key):
    ...   return Outputs(x @ variables.params, {}, None), {}
    >>> metrics = {"accuracy": (accuracy, select_supervised)}
    >>> evaluate = jax.jit(make_eval_step(forward, metrics))
    >>> batch = {
    ...   "image": jnp.eye(3),
    ...   "label": jnp.array([0, 1, 0]),
    ...   "mask": jnp.array([True, True, False]),
    ... }
    >>> evaluate(Variables(jnp.eye(3), {}), {}, batch)["accuracy"]
    (Array(2., dtype=float32), Array(2., dtype=float32))

  References:
    The (sum, normalizer) metrics of `Scenic
    <https://github.com/google-research/scenic>`_.
  """
  name = "make_eval_step"
  check_parts(name, student, teacher)
  check_pairs(name, metrics, "(function, selector)")

  def evaluate(variables: Variables, frozen: Any, batch: Any) -> Metrics:
    images, mask = (
      get_entry(f"{name}: batch", batch, k) for k in ("image", "mask")
    )
    outputs, _ = run_forward(f"{name}: student", student, variables, images)
    targets = None
    if teacher is not None:
      targets = answer(name, teacher, frozen, batch, images)
    count = jnp.sum(mask, dtype=jnp.float32)

    def summed(function: Any, select: Any) -> Array:
      with reading_teacher(name, teacher):
        arguments = select(outputs, targets, batch)
      values = jnp.asarray(function(*arguments), jnp.float32)
      return batch_mean(values, batch, None, function) * count

    pairs = {metric: (summed(*pair), count) for metric, pair in metrics.items()}
    return sum_over_devices(pairs, axis_name)

  return evaluate


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
