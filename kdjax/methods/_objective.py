"""Objectives: the functions that training minimizes, as pure pairs.

Parameters (a projector) and state (a memory bank, a step counter, the
hyper-parameters) are explicit pytrees, so that they are checkpointed, sharded
and vmapped like everything else.
"""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._binding import (
  Roles,
  Select,
  arguments_of,
  first_role,
  masks_for,
  name_of,
  parameter_names,
  part_of,
  resolve,
)
from kdjax.methods._nearest import nearest

Metrics = dict[str, tuple[Array, Array]]
Schedule = Callable[[Array], ArrayLike]


@runtime_checkable
class Apply(Protocol):
  """The second function of an `Objective`."""

  def __call__(
    self,
    params: Any,
    state: Any,
    outputs: Roles,
    batch: Any,
    key: Array,
    /,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]: ...


class Objective(NamedTuple):
  """Objective: a pair of pure functions, in the manner of Optax.

  Attributes:
    init: `(key, specs) -> params, state`. The specs map a role to `Outputs` of
      `jax.ShapeDtypeStruct`, so that no width is typed by hand.
    apply: `(params, state, outputs, batch, key, *, axis_name=None) -> loss,
      state, metrics`. `outputs` maps a role (`"student"`, `"teacher"`,
      `"source"`, `"target"`, `"past"`, ...) to `Outputs`. The loss is that of
      the whole batch on every device. Metrics are pairs (sum, count) of this
      device's examples. The key is the same on every device.
    predict: `(params, state, outputs) -> logits`, the answer of a trained
      student that does not answer by its own logits (SimKD's student answers
      through the teacher's classifier); or None.
    renew: `(state, outputs) -> state`, from the outputs of all examples at
      once, which the caller asks for before each round (SHOT labels the whole
      target anew); or None.
    parts: name -> another function like `apply`, for updates that alternate
      between several losses of the same parameters (`alternate`).

  References:
    `optax.GradientTransformation
    <https://optax.readthedocs.io/en/latest/api/transformations.html>`_.
  """

  init: Callable[[Array, Any], tuple[Any, Any]]
  apply: Apply
  predict: Callable[[Any, Any, Roles], Array] | None = None
  renew: Callable[[Any, Roles], Any] | None = None
  parts: Mapping[str, Apply] = types.MappingProxyType({})

  def __hash__(self) -> int:  # A mapping has none.
    return hash((self.init, self.apply, self.predict, self.renew))


def stateless(
  loss: Callable[..., Array],
  select: Select | None = None,
  **hyperparameters: Any,
) -> Objective:
  """Objective without parameters: lifts a pure loss.

  The loss's arguments are bound by their names: `student_logits`,
  `teacher_embeddings`, `labels`, `source_labels`, `target_logits`, or any
  other entry of the batch; `batch` is the whole batch. Numbers among the
  hyper-parameters are the objective's state, as arrays of floats. Inputs in
  half precision reach the loss in float32.

  Args:
    loss: returns one value an example (or one a token, for a mask of tokens).
      A loss with the parameter `axis_name` is batch-coupled and returns one
      value for the batch: it also gets the masks that it has parameters for,
      `where`, `where_source`, `where_target` and so on. A loss with the
      parameter `key` gets a random key.
    select: the names of the arguments, in their order, where the loss's own
      names say something else: `("target_logits",)`, `("student_features.f1",
      "teacher_features.f2")`. Or a function that returns the arguments; its
      own parameters are bound by their names.
    **hyperparameters: keyword arguments of the loss. Numbers and arrays may
      be traced. The loss checks the range of numbers given here when `apply`
      is traced; only `kdjax.ops.checked` checks values that are traced or put
      into the state later. Strings, bools, tuples, functions and
      None are bound once and for all; bind a static integer with
      `functools.partial`.

  Returns:
    An objective with the metric `"loss"`; its state is the dictionary of the
    numeric hyper-parameters.

  Raises:
    TypeError: if the loss is not callable.
    ValueError: if the loss has no such hyper-parameter, or one has no value;
      from `apply`, if an argument's name stands for nothing, if a loss that is
      not batch-coupled does not return one value an example, or refuses a
      hyper-parameter.

  Examples:
    >>> from kdjax.distillation import soft_target_loss
    >>> objective = stateless(soft_target_loss, temperature=4.0)
    >>> params, state = objective.init(jax.random.key(0), {})
    >>> state
    {'temperature': Array(4., dtype=float32)}

  References:
    `optax.stateless
    <https://optax.readthedocs.io/en/latest/api/utilities.html>`_ and
    `optax.inject_hyperparams`.
  """
  if not callable(loss):
    raise TypeError(
      f"stateless: loss is a {type(loss).__name__}; expected a function."
    )
  parameters = inspect.signature(loss).parameters
  _check_hyperparameters(loss, parameters, hyperparameters)
  static = {k: v for k, v in hyperparameters.items() if _is_option(v)}
  numbers = {k: v for k, v in hyperparameters.items() if k not in static}
  reader = name_of(loss)
  positional = parameter_names(loss)
  key_first = positional[:1] == ["key"]
  if select is None:
    bound = [name for name in positional if name not in _GIVEN]
    select = [name for name in bound if name not in hyperparameters]
  elif isinstance(select, str):
    select = (select,)

  def init(key: Array, specs: Any) -> tuple[dict[str, Any], dict[str, Array]]:
    del key, specs
    return {}, as_hyperparameters(numbers)

  def apply(
    params: Any,
    state: Any,
    outputs: Roles,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params
    if callable(select):
      names = parameter_names(select)
      arguments = select(*arguments_of(select, outputs, batch))
    else:
      names = list(select)
      arguments = [
        batch if name == "batch" else resolve(reader, name, outputs, batch)
        for name in names
      ]
    arguments = jax.tree.map(widen, tuple(arguments))
    part = part_of(batch, first_role(names, outputs))
    options = dict(static)
    coupled = "axis_name" in parameters
    if coupled:
      role = first_role(names, outputs)
      masks = masks_for(parameters, role, batch, reader)
      # A mask without a default is among the arguments already.
      options |= {k: v for k, v in masks.items() if k not in names}
      options["axis_name"] = axis_name
    if key_first:
      arguments = (key, *arguments)
    elif "key" in parameters:
      options["key"] = key
    # Only shapes, for the loss's own checks: in the state all is traced.
    checked = {
      k: np.asarray(v, float)[()]
      for k, v in numbers.items()
      if not isinstance(v, jax.Array)
    }
    if checked:
      jax.eval_shape(lambda: loss(*arguments, **options, **(state | checked)))
    value = loss(*arguments, **options, **state)
    if coupled:
      return value, state, loss_metric(value, part)
    axes = jnp.ndim(value)
    value = batch_mean(value, part, axis_name, loss)
    return value, state, loss_metric(value, part, axes)

  return Objective(init, apply)


# Parameters that the library fills, beside masks.
_GIVEN = ("key", "axis_name")


def _is_option(value: Any) -> bool:
  """Whether a hyper-parameter is bound rather than kept in the state."""
  if isinstance(value, str | bytes | bool | None):
    return True
  if isinstance(value, tuple | list):
    return any(map(_is_option, value)) or isinstance(value, tuple)
  if getattr(value, "dtype", None) == np.bool_:
    return True
  return callable(value) and not hasattr(value, "dtype")


def _check_hyperparameters(
  loss: Callable[..., Any], parameters: Any, given: Mapping[str, Any]
) -> None:
  """Raises ValueError unless the loss takes the given values and no others."""
  kinds = {p.kind for p in parameters.values()}
  name = name_of(loss)
  known = [
    k
    for k, p in parameters.items()
    if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and k not in _GIVEN
  ]
  keyword_only = [k for k in known if parameters[k].kind.name == "KEYWORD_ONLY"]
  if inspect.Parameter.VAR_KEYWORD not in kinds:
    for unknown in sorted(given.keys() - set(known)):
      raise ValueError(
        f"stateless: {name} has no hyper-parameter {unknown!r}; expected "
        f"{nearest(unknown, keyword_only or known)}."
      )
  missing = [
    k
    for k in keyword_only
    if parameters[k].default is inspect.Parameter.empty
    and not k.startswith("where")
    and k not in given
  ]
  if missing:
    raise ValueError(
      f"stateless: {name} has no value for {', '.join(missing)}; expected "
      f"them as keyword arguments, {missing[0]}=..."
    )


# An objective for passes whose outputs are only measured, and for updates that
# need no loss.
NO_LOSS = Objective(
  lambda key, specs: ({}, {}),
  lambda params, state, outputs, batch, key, *, axis_name=None: (
    jnp.zeros(()),
    state,
    {},
  ),
)


def loss_metric(value: Array, batch: Any, axes: int | None = None) -> Metrics:
  """The (sum, count) of this device's share of a batch's mean loss.

  Args:
    value: the loss of the batch.
    batch: has the mask.
    axes: how many axes of the mask the loss had values for: one an example
      counts examples, although the mask may be of tokens.

  Returns:
    The metric `"loss"`.
  """
  mask = ops.get_entry("the objective's batch", batch, "mask")
  if axes is not None:
    mask = jnp.any(mask, tuple(range(axes, jnp.ndim(mask))))
  count = jnp.sum(mask, dtype=value.dtype)
  return {"loss": (value * count, count)}


def batch_mean(
  value: Any, batch: Any, axis_name: str | None, loss: Callable[..., Any]
) -> Array:
  """Reduces one value an example, without padding, over all devices.

  A mask of tokens `[batch, length]` counts tokens where the loss has a value
  for each, and examples with any token where it has one an example.
  """
  name = name_of(loss)
  mask = ops.get_entry(f"{name}: batch", batch, "mask")
  if getattr(mask, "dtype", None) != jnp.bool_:
    kind = getattr(mask, "dtype", type(mask).__name__)
    raise TypeError(
      f"{name}: batch['mask'] is of {kind}; expected an array of bool, "
      "[batch], or [batch, length] for tokens."
    )
  shape = jnp.shape(value)
  if not shape or shape != mask.shape[: len(shape)]:
    raise ValueError(_unlike_mask(name, shape, mask.shape))
  where = jnp.any(mask, tuple(range(len(shape), mask.ndim)))
  return ops.masked_mean(value, where, axis_name=axis_name)


def _unlike_mask(name: str, shape: Any, mask: Any) -> str:
  if shape[: len(mask)] == mask:
    fix = (
      f"A loss of tokens needs a mask of tokens: give batch['mask'] the shape "
      f"{shape}, or sum the values of an example."
    )
  else:
    fix = "A loss of the whole batch takes where and axis_name."
  return (
    f"{name} returned shape {shape}; expected one value for each entry of "
    f"batch['mask'], {mask}. {fix}"
  )


def as_hyperparameters(values: Mapping[str, Any]) -> dict[str, Array]:
  """Hyper-parameters as they are kept in a state."""
  return {k: as_number(k, v) for k, v in values.items()}


def as_number(name: str, value: Any) -> Array:
  kind = getattr(value, "dtype", None)
  none = isinstance(value, str | bytes | bool | None)
  if none or kind == jnp.bool_ or (kind is None and callable(value)):
    raise TypeError(
      f"{name} is {value!r}; expected a number or an array. Bind an option "
      "that is no number with functools.partial."
    )
  return jnp.asarray(value, float)


def widen(x: Any) -> Any:
  """Half precision quantizes a loss, and a loss from elsewhere may not care."""
  # The loss itself refuses an argument that is no array.
  if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return x
