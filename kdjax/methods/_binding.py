"""Binds the arguments of a loss by their names.

`student_logits` is the field `logits` of the role `student`, `labels` is the
entry `"label"` of the batch. A role is a name in `outputs`; a view of a role's
examples is a role of its own, `student_strong` beside `student`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import nets, ops
from kdjax.methods._stages import field_of, last_feature

Roles = Mapping[str, nets.Outputs]
Select = Callable[..., tuple[Any, ...]] | Sequence[str]


def _probabilities(role: str, outputs: nets.Outputs) -> Array:
  logits = outputs.logits
  wide = jnp.promote_types(logits.dtype, jnp.float32)
  return jax.nn.softmax(logits.astype(wide))


def _field(name: str) -> Callable[[str, nets.Outputs], Any]:
  return lambda role, outputs: field_of(role, outputs, name)


# The fields that may follow a role's name in the name of an argument.
FIELDS: dict[str, Callable[[str, nets.Outputs], Any]] = {
  "logits": _field("logits"),
  "probabilities": _probabilities,
  "embedding": _field("embedding"),
  "embeddings": _field("embedding"),
  "features": _field("features"),
  "hidden": last_feature,
  "preactivations": _field("preactivations"),
  "normalizations": _field("normalizations"),
  "attention": _field("attention"),
  "classifier": _field("classifier"),
  "heads": _field("heads"),
  "params": _field("params"),
  "scores": _field("scores"),
  "queries": _field("queries"),
  "keys": _field("keys"),
  "values": _field("values"),
}


def arguments_of(
  function: Callable[..., Any],
  outputs: Roles,
  batch: Any,
  *,
  skip: int = 0,
  known: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
  """Binds the positional parameters of a function by their names.

  Args:
    function: its positional parameters without a default are bound.
    outputs: role -> `Outputs`.
    batch: the batch of the step.
    skip: how many of the first parameters the caller fills.
    known: name -> value, which come before roles and entries of the batch.

  Returns:
    The arguments, in the order of the parameters.

  Raises:
    ValueError: if a name is neither known, nor a role or a field of one, nor
      an entry of the batch.
  """
  names = parameter_names(function)[skip:]
  known = {"outputs": outputs, "batch": batch, **(known or {})}
  reader = name_of(function)
  return tuple(
    known[name] if name in known else resolve(reader, name, outputs, batch)
    for name in names
  )


def parameter_names(function: Callable[..., Any]) -> list[str]:
  """The positional parameters that have no default."""
  positional = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
  )
  return [
    name
    for name, parameter in _signature(function).parameters.items()
    if parameter.kind in positional and parameter.default is parameter.empty
  ]


def _signature(function: Callable[..., Any]) -> inspect.Signature:
  """The signature of a function, or of the constructor of a class."""
  if isinstance(function, functools.partial):
    inner, arguments, options = function.func, function.args, function.keywords
  else:
    inner, arguments, options = function, (), {}
  if isinstance(inner, type):
    # The class of NNX modules itself says (*args, **kwargs).
    function = functools.partial(inner.__init__, None, *arguments, **options)
  return inspect.signature(function)


def resolve(reader: str, name: str, outputs: Roles, batch: Any) -> Any:
  """Returns the value that an argument's name stands for.

  Args:
    reader: the name of the loss, for the error.
    name: a role; a role and a field, `teacher_logits`; a feature by its name,
      `student_features.f1`; a field of the learning role alone, `logits`;
      `where`, the mask of the learning role, and `where_target`, that of a
      part; `labels`, or another entry of the batch, in the plural or not, with
      the name of its part of the batch before it (`source_labels`) or without.
    outputs: role -> `Outputs`.
    batch: the batch of the step.

  Returns:
    `Outputs`, a field of them, or an entry of the batch.

  Raises:
    ValueError: if the name stands for nothing that is there.
  """
  name, _, feature = name.partition(".")
  if name in outputs:
    return outputs[name]
  if name == "where" or name.startswith("where_"):
    own = name.removeprefix("where").removeprefix("_")
    part = part_of(batch, own or learning_role(outputs))
    return ops.get_entry(f"{reader}: batch", part, "mask")
  role, field = split_name(name, outputs)
  if field in FIELDS and role in outputs:
    values = FIELDS[field](role, outputs[role])
    if feature:
      return ops.get_entry(f"{role}.{field}", values, feature)
    return values
  part = part_of(batch, role)
  singular = field[:-1] if field.endswith("s") else field
  for key in (name, field, singular):
    if isinstance(part, Mapping) and key in part:
      return part[key]
  raise ValueError(_unknown(reader, name, outputs, batch))


def split_name(name: str, outputs: Roles) -> tuple[str, str]:
  """The role in front of a name, or the learning role, and the rest."""
  named = [role for role in outputs if name.startswith(f"{role}_")]
  if named:
    role = max(named, key=len)
    return role, name[len(role) + 1 :]
  return learning_role(outputs), name


def learning_role(outputs: Roles) -> str:
  """The role that a name without a role means: the student, or the source."""
  for role in ("student", "source"):
    if role in outputs:
      return role
  return next(iter(outputs), "student")


def first_role(names: Sequence[str], outputs: Roles) -> str:
  """The role whose examples a loss of these arguments counts."""
  for name in names:
    role, _ = split_name(name.partition(".")[0], outputs)
    if name in outputs:
      return name
    if any(name.startswith(f"{known}_") for known in outputs):
      return role
  return learning_role(outputs)


def part_of(batch: Any, role: str) -> Any:
  """The part of the batch that holds a role's examples.

  A batch of several domains has a mapping for each of them, with a mask of its
  own: that of the roles `target`, `target_strong` and so on is `"target"`.
  """
  if not isinstance(batch, Mapping):
    return batch
  parts = [
    name
    for name, part in batch.items()
    if isinstance(part, Mapping)
    and "mask" in part
    and (role == name or role.startswith(f"{name}_"))
  ]
  return batch[max(parts, key=len)] if parts else batch


def masks_for(
  parameters: Mapping[str, Any], role: str, batch: Any, reader: str
) -> dict[str, Any]:
  """The masks that a batch-coupled loss takes: `where`, `where_target` ...

  Args:
    parameters: of the loss, by name.
    role: whose examples `where` counts.
    batch: the batch of the step.
    reader: the name of the loss, for the error.

  Returns:
    name -> bool, for the parameters of these names.
  """
  masks = {}
  for name in parameters:
    if name == "where":
      masks[name] = ops.get_entry(
        f"{reader}: batch", part_of(batch, role), "mask"
      )
    elif name.startswith("where_"):
      part = part_of(batch, name.removeprefix("where_"))
      masks[name] = ops.get_entry(f"{reader}: batch", part, "mask")
  return masks


def name_of(function: Any) -> str:
  """The name of a function in an error.

  The library's own inner functions have the name of the method that made them:
  `dann` for `_dann.<locals>.loss`.
  """
  function = getattr(function, "func", function)
  name = getattr(function, "__qualname__", None) or repr(function)
  own = str(getattr(function, "__module__", "")).startswith("kdjax.")
  place = 0 if own else -1
  name = name.split(".<locals>.")[place]
  return name.lstrip("_") if own else name


# The remedy if a role is missing, for errors.
_MISSING = {
  "teacher": "a teacher: give the learner one",
  "past": "a past network: give the learner one",
  "average": "an average: give the optimizer parameter_ema",
}


def _unknown(reader: str, name: str, outputs: Roles, batch: Any) -> str:
  entries = sorted(batch) if isinstance(batch, Mapping) else []
  text = (
    f"{reader} reads {name!r}, which is none of the roles {sorted(outputs)} "
    f"with a field ({', '.join(sorted(FIELDS))}) and no entry of the batch "
    f"{entries}."
  )
  role, field = split_name(name, outputs)
  view, _, last = field.rpartition("_")
  if name.startswith(f"{role}_{view}_") and view and last in FIELDS:
    return (
      f"{text} Expected the view {view!r} of the {role}'s examples: give the "
      f"learner views={{{view!r}: ...}}."
    )
  wanted = name.partition("_")[0]
  if wanted in _MISSING and wanted not in outputs:
    return f"{text} Expected {_MISSING[wanted]}."
  return (
    f"{text} Rename the argument, or say what it reads: "
    "stateless(loss, ('student_logits', ...))."
  )
