"""What is minimised, as a pair of pure functions.

Parameters (a projector) and state (a memory bank, a step counter, the
hyper-parameters) are explicit pytrees, so that they are checkpointed, sharded
and vmapped like everything else.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.objectives._select import Selector
from kdjax.objectives._select import select_logits
from kdjax.ops import get_entry
from kdjax.ops import masked_mean

Metrics = dict[str, tuple[Array, Array]]
Schedule = Callable[[Array], ArrayLike]


class Objective(NamedTuple):
  """Objective: a pair of pure functions, in the manner of Optax.

  Attributes:
    init: `(key, student_spec, teacher_spec) -> params, state`. The specs are
      `Outputs` of `jax.ShapeDtypeStruct`, so that widths are never typed by
      hand; `teacher_spec` is None where there is no teacher.
    apply: `(params, state, student, teacher, batch, key) -> loss, state,
      metrics`. The loss is that of the whole batch on every device. Metrics
      are pairs (sum, count) of this device's examples. The key is the same
      on every device.
    predict: `(params, state, student, teacher) -> logits`, what the trained
      student answers where that is not its own logits (SimKD's student answers
      through the teacher's classifier); or None.

  References:
    `optax.GradientTransformation
    <https://optax.readthedocs.io/en/latest/api/transformations.html>`_.
  """

  init: Callable[[Array, Any, Any], tuple[Any, Any]]
  apply: Callable[[Any, Any, Any, Any, Any, Array], tuple[Array, Any, Metrics]]
  predict: Callable[[Any, Any, Any, Any], Array] | None = None


def stateless(
  loss: Callable[..., Array],
  select: Selector = select_logits,
  *,
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Objective without parameters: lifts a pure loss.

  The hyper-parameters are the objective's state, as arrays of floats. Inputs in
  half precision reach the loss in float32.

  Args:
    loss: `loss(*select(student, teacher, batch), **hyperparameters)` returns
      one value an example. A loss with the parameter `axis_name` is
      batch-coupled and returns one value for the batch: it is also given
      `axis_name` and the batch's mask, as those of `where`, `where_source` and
      `where_target` that it has. Under :func:`kdjax.training.adaptation_loss`
      `where_target` is the target's mask. An option that is no number (a
      string, a bool, a static integer) is bound beforehand by
      `functools.partial`.
    select: which arrays the loss compares.
    axis_name: the mapped axis that holds the rest of the batch.
    **hyperparameters: numbers, or arrays, which may be traced. The loss checks
      the range of numbers given here when `apply` is traced; what is traced,
      or put into the state later, only :func:`kdjax.ops.checked` checks.

  Returns:
    An objective with the metric `"loss"`; its state is the dictionary of the
    hyper-parameters.

  Raises:
    TypeError: from `init`, if a hyper-parameter is no number.
    ValueError: if the loss has no such hyper-parameter; from `apply`, if a loss
      that is not batch-coupled does not return one value an example, or refuses
      a hyper-parameter.

  Examples:
    >>> from kdjax.distillation import soft_target_loss
    >>> objective = stateless(soft_target_loss, temperature=4.0)
    >>> params, state = objective.init(jax.random.key(0), None, None)
    >>> state
    {'temperature': Array(4., dtype=float32)}

  References:
    `optax.stateless
    <https://optax.readthedocs.io/en/latest/api/utilities.html>`_ and
    `optax.inject_hyperparams`.
  """
  parameters = inspect.signature(loss).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    unknown = sorted(hyperparameters.keys() - parameters.keys())
    if unknown:
      known = [k for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
      raise ValueError(
        f"stateless: {', '.join(unknown)} given; expected hyper-parameters of "
        f"{getattr(loss, '__name__', loss)}: {', '.join(known or parameters)}."
      )

  def init(
    key: Array, student_spec: Any, teacher_spec: Any
  ) -> tuple[dict[str, Any], dict[str, Array]]:
    del key, student_spec, teacher_spec
    return {}, as_hyperparameters(hyperparameters)

  def apply(
    params: Any, state: Any, student: Any, teacher: Any, batch: Any, key: Array
  ) -> tuple[Array, Any, Metrics]:
    del params, key
    arguments = jax.tree.map(widen, select(student, teacher, batch))
    mask = get_entry("stateless: batch", batch, "mask")
    options = {}
    # Without axis_name, `where` is something else: in Optax a mask of classes.
    if "axis_name" in parameters:
      options = {"axis_name": axis_name, "where": mask, "where_source": mask}
      if "where_target" in parameters:
        target = batch.get("target", batch)
        options["where_target"] = get_entry(
          "stateless: the target's batch", target, "mask"
        )
      options = {k: v for k, v in options.items() if k in parameters}
    # Only shapes, for the loss's own checks: in the state all is traced.
    static = {
      k: np.asarray(v, float)[()]
      for k, v in hyperparameters.items()
      if not isinstance(v, jax.Array)
    }
    if static:
      jax.eval_shape(lambda: loss(*arguments, **options, **(state | static)))
    value = loss(*arguments, **options, **state)
    if not options:
      value = batch_mean(value, batch, axis_name, loss)
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


def combine(
  objectives: Mapping[str, tuple[ArrayLike | Schedule, Objective]],
) -> Objective:
  r"""Weighted sum of objectives, with constant or scheduled weights.

  .. math::
    \ell = \sum_i w_i(t)\, \ell_i

  where t counts the calls of `apply`. Constant weights and the counter are
  part of the state: `{"step", "weights", "objectives"}`.

  Args:
    objectives: name -> (weight, objective). The weight is a number, an array,
      or a function of the step such as an Optax schedule.

  Returns:
    An objective with the metric `"loss"`, the weighted sum, and the parts'
    own, unweighted, under `"name/..."`.

  Raises:
    TypeError: if a part is no pair of a weight and an objective; from `init`,
      if a weight is neither number nor function.
    ValueError: if there is no part, or several answer for the student; from
      `apply`, if the parameters are another objective's.

  Examples:
    >>> from kdjax.distillation import soft_target_loss
    >>> objective = combine({"kd": (0.9, stateless(soft_target_loss))})
    >>> params, state = objective.init(jax.random.key(0), None, None)
    >>> state["weights"]
    {'kd': Array(0.9, dtype=float32)}

  References:
    `optax.chain and optax.named_chain
    <https://optax.readthedocs.io/en/latest/api/combining_optimizers.html>`_.
  """
  if not isinstance(objectives, Mapping):
    raise TypeError(
      f"combine: objectives is a {type(objectives).__name__}; expected a "
      "mapping, name -> (weight, objective)."
    )
  if not objectives:
    raise ValueError("combine: objectives is empty; expected one or more.")
  objectives = dict(objectives)
  for name, part in objectives.items():
    if not (
      isinstance(part, Sequence)
      and len(part) == 2
      and isinstance(part[1], Objective)
    ):
      raise TypeError(
        f"combine: {name} is {part!r}; expected (weight, objective). A loss "
        "becomes an objective by `stateless`."
      )

  def init(
    key: Array, student_spec: Any, teacher_spec: Any
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    params, states, weights = {}, {}, {}
    for i, (name, (weight, objective)) in enumerate(objectives.items()):
      params[name], states[name] = objective.init(
        jax.random.fold_in(key, i), student_spec, teacher_spec
      )
      if not callable(weight):
        weights[name] = _number(f"the weight of {name}", weight)
    step = jnp.zeros((), jnp.int32)
    return params, {"step": step, "weights": weights, "objectives": states}

  def apply(
    params: Any, state: Any, student: Any, teacher: Any, batch: Any, key: Array
  ) -> tuple[Array, Any, Metrics]:
    total: Any = 0.0
    states, metrics = {}, {}
    for i, (name, (schedule, objective)) in enumerate(objectives.items()):
      loss, states[name], parts = objective.apply(
        get_entry("combine: the objective's params", params, name),
        state["objectives"][name],
        student,
        teacher,
        batch,
        jax.random.fold_in(key, i),
      )
      if callable(schedule):
        weight = schedule(state["step"])
      else:
        weight = state["weights"][name]
      total += weight * loss
      metrics |= {f"{name}/{metric}": pair for metric, pair in parts.items()}
    state = state | {"step": state["step"] + 1, "objectives": states}
    return total, state, loss_metric(total, batch) | metrics

  answering = [k for k, (_, part) in objectives.items() if part.predict]
  if len(answering) > 1:
    raise ValueError(
      f"combine: {', '.join(answering)} answer for the student; expected at "
      "most one objective that does."
    )

  def predict(params: Any, state: Any, student: Any, teacher: Any) -> Array:
    (name,) = answering
    part = objectives[name][1]
    assert part.predict is not None
    parts = state["objectives"]
    return part.predict(params[name], parts[name], student, teacher)

  return Objective(init, apply, predict if answering else None)


def loss_metric(value: Array, batch: Any) -> Metrics:
  """The (sum, count) of this device's share of a batch's mean loss."""
  mask = get_entry("the objective's batch", batch, "mask")
  count = jnp.sum(mask, dtype=value.dtype)
  return {"loss": (value * count, count)}


def batch_mean(
  value: Any, batch: Any, axis_name: str | None, loss: Callable[..., Any]
) -> Array:
  """Reduces one value an example, without padding, over all devices."""
  name = getattr(getattr(loss, "func", loss), "__name__", repr(loss))
  mask = get_entry(f"{name}: batch", batch, "mask")
  if getattr(mask, "dtype", None) != jnp.bool_:
    kind = getattr(mask, "dtype", type(mask).__name__)
    raise TypeError(
      f"{name}: batch['mask'] is of {kind}; expected an array of bool, [batch]."
    )
  if jnp.shape(value)[:1] != mask.shape:
    raise ValueError(
      f"{name} returned shape {jnp.shape(value)}; expected one value an "
      f"example, {mask.shape} as in batch['mask'], of which padding is left "
      "out. A loss of the whole batch takes where and axis_name."
    )
  return masked_mean(value, mask, axis_name=axis_name)


def as_hyperparameters(values: Mapping[str, Any]) -> dict[str, Array]:
  """Hyper-parameters as they are kept in a state."""
  return {k: _number(k, v) for k, v in values.items()}


def _number(name: str, value: Any) -> Array:
  kind = getattr(value, "dtype", None)
  none = isinstance(value, str | bytes | bool | None)
  if none or kind == jnp.bool_ or (kind is None and callable(value)):
    raise TypeError(
      f"{name} is {value!r}; expected a number or an array. Bind an option "
      "that is none with functools.partial."
    )
  return jnp.asarray(value, float)


def widen(x: Any) -> Any:
  """Half precision quantises a loss, and a loss from elsewhere may not care."""
  # What is no array is the loss's own to refuse.
  if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return x
