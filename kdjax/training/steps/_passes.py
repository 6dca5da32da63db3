"""Passes: which network runs on which part of the batch.

A method of any area is a table of passes and an objective. One builder,
`pass_loss`, runs the table and hands the outputs, by the passes' names,
to the objective.
"""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import methods, nets, ops
from kdjax.training.networks._models import (
  Forward,
  Variables,
  check_forward,
  run_forward,
)
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.steps._checks import check_objective

Metrics = dict[str, tuple[Array, Array]]
Prepare = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class LossFn:
  """Loss of a step: a table of passes and an objective, as a pure function.

  Call it as `loss_fn(params, state, frozen, batch, key, axis_name=None)`; it
  returns `loss, (state, metrics)`.

  Attributes:
    forwards: name -> forward of each network.
    passes: role -> `Pass`.
    objective: compares the outputs.
    prepare: `(key, batch, run) -> batch`, before the passes; or None.

  References:
    `pass_loss`.
  """

  forwards: Mapping[str, Forward | CachedTeacher]
  passes: Mapping[str, methods.Pass]
  objective: methods.Objective
  prepare: Prepare | None = None

  def run(
    self,
    params: Any,
    state: Any,
    frozen: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: ops.AxisName = ops.UNKNOWN_AXIS,
  ) -> tuple[dict[str, nets.Outputs], Any, Any]:
    """Runs the passes.

    Args:
      params: network or `"objective"` -> its trained parameters.
      state: the same names -> other arrays that change.
      frozen: network -> the variables of those that are not trained.
      batch: a mapping of inputs, labels and `"mask"`, or of such parts.
      key: of everything random.
      axis_name: the mapped axis that holds the rest of the batch.

    Returns:
      The outputs by role, the networks' new states, and the batch as it was
      prepared.
    """
    axis_name = ops.resolve_axis_name("the passes", axis_name)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    prepare_key, key = jax.random.split(key)
    # What a memory holds may be a part that only `prepare` adds.
    stateful = self.prepare is not None and "state" in _parameters(self.prepare)
    batch = _with_parts(batch, self.passes, partial=stateful)
    states = {k: v for k, v in state.items() if k != "objective"}

    def variables(name: str, gradient: bool = True) -> Variables:
      if name not in states:
        if name == "average" and name not in frozen:
          raise ValueError(
            "the loss: there is no average of the student's parameters; "
            "expected parameter_ema as the last link of the optimizer."
          )
        fixed = ops.get_entry("the loss: frozen", frozen, name)
        if not isinstance(fixed, Variables):
          raise TypeError(
            f"the loss: frozen[{name!r}] is a {type(fixed).__name__}; expected "
            "Variables, as a learner's `frozen` has, or a Model's `variables`."
          )
        return jax.lax.stop_gradient(fixed)
      own = params[name] if gradient else jax.lax.stop_gradient(params[name])
      return Variables(own, states[name])

    if self.prepare is not None:

      def answer(
        name: str, inputs: Any, *, gradient: bool = False
      ) -> nets.Outputs:
        forward = self.forwards[name]
        if isinstance(forward, CachedTeacher):
          raise ValueError(
            f"prepare asks {name!r}, a CachedTeacher, which has no network; "
            "expected the name of one that has."
          )
        return run_forward(name, forward, variables(name, gradient), inputs)[0]

      known = {"state": state.get("objective"), "axis_name": axis_name}
      takes = inspect.signature(self.prepare).parameters
      own = {k: v for k, v in known.items() if k in takes}
      batch = self.prepare(prepare_key, batch, answer, **own)
      if stateful:
        _check_parts(batch, self.passes)
    _check_paired(batch, self.passes)
    outputs: dict[str, nets.Outputs] = {}
    for i, (roles, row) in enumerate(_groups(self.passes)):
      forward = self.forwards[row.network]
      if isinstance(forward, CachedTeacher):
        (role,) = roles
        outputs[role] = forward(_part(batch, row.on))
        continue
      inputs = [_inputs(batch, self.passes[role].on) for role in roles]
      axes = [self.passes[role].batch_axes for role in roles]
      sizes = [_batch_shape(*pair) for pair in zip(inputs, axes, strict=True)]
      folded = [_fold(*pair) for pair in zip(inputs, axes, strict=True)]
      # The first pass has the key itself, as if it were the only one.
      pass_key = jax.random.fold_in(key, i - 1) if i else key
      known = variables(row.network, row.gradient)
      both, moved = run_forward(
        row.network,
        forward,
        known,
        _joined(roles, folded),
        train=row.train,
        key=pass_key if row.train else None,
        axis_name=axis_name,
      )
      if row.network in states and row.train:
        states[row.network] = moved
      # For penalties of the parameters, which a forward does not return.
      both = both._replace(params=known.params)
      start = 0
      for role, size in zip(roles, sizes, strict=True):
        stop = start + functools.reduce(lambda a, b: a * b, size)
        rows = slice(start, stop) if len(roles) > 1 else slice(None)
        outputs[role] = _rows(both, rows, size)
        start = stop
    return outputs, ops.replicate_over_devices(states, axis_name), batch

  def __call__(
    self,
    params: Any,
    state: Any,
    frozen: Any,
    batch: Any,
    key: Array,
    *,
    part: str | tuple[str, ...] | None = None,
    axis_name: ops.AxisName = ops.UNKNOWN_AXIS,
  ) -> tuple[Array, tuple[Any, Metrics]]:
    """The loss, or a part of it, and the new state and the metrics.

    Of several parts the losses are a vector, of one run of the networks.
    """
    axis_name = ops.resolve_axis_name("the loss", axis_name)
    objective_key, key = jax.random.split(key)
    outputs, states, batch = self.run(
      params, state, frozen, batch, key, axis_name=axis_name
    )
    applied = [self.objective.apply]
    if part is not None:
      applied = [
        ops.get_entry("the objective's parts", self.objective.parts, name)
        for name in ((part,) if isinstance(part, str) else part)
      ]
    losses, metrics, moved = [], {}, state["objective"]
    for apply in applied:
      value, moved, seen = apply(
        params["objective"],
        moved,
        outputs,
        batch,
        objective_key,
        axis_name=axis_name,
      )
      losses.append(value)
      metrics |= seen
    loss = jnp.stack(losses) if isinstance(part, tuple) else losses[0]
    return loss, (states | {"objective": moved}, metrics)


def pass_loss(
  forwards: Mapping[str, Forward | CachedTeacher],
  passes: Mapping[str, methods.Pass],
  objective: methods.Objective,
  *,
  prepare: Prepare | None = None,
) -> LossFn:
  """Loss of a step: runs a table of passes and compares their outputs.

  Args:
    forwards: name -> forward of each network.
    passes: role -> `Pass`. They run in this order.
    objective: reads the outputs by role.
    prepare: `(key, batch, run) -> batch` before the passes: augmentation,
      other views of the examples as new entries, mixtures. `run(network,
      inputs, gradient=False) -> Outputs` asks a network, in evaluation mode.

  Returns:
    A `LossFn`.

  Raises:
    TypeError: if a forward is not one but, say, a `Model`, a pass no
      `Pass` or the objective no `Objective`.
    ValueError: if a pass names a network that there is not; from the loss, if
      the batch lacks an entry that is read, or `frozen` a network.

  Examples:
    >>> from kdjax.methods import Pass, stateless
    >>> def forward(variables, x, *, train, key):
    ...   return nets.Outputs(variables.params * x, {}, None), {}
    >>> def loss(student_logits, teacher_logits):
    ...   return (student_logits - teacher_logits) ** 2
    >>> loss_fn = pass_loss(
    ...   {"student": forward, "teacher": forward},
    ...   {"student": Pass("student", "x", train=True),
    ...    "teacher": Pass("teacher", "x")},
    ...   stateless(loss),
    ... )
    >>> params = {"student": jnp.array(1.0), "objective": {}}
    >>> state = {"student": {}, "objective": {}}
    >>> frozen = {"teacher": Variables(jnp.array(3.0), {})}
    >>> batch = {"x": jnp.array([1.0, 2.0]), "mask": jnp.array([True, True])}
    >>> loss_fn(params, state, frozen, batch, jax.random.key(0))[0]
    Array(10., dtype=float32)

  References:
    The functional steps of `BlackJAX
    <https://github.com/blackjax-devs/blackjax>`_ and `Flax
    <https://flax.readthedocs.io/en/latest/>`_.
  """
  check_objective("pass_loss", objective)
  for name, forward in forwards.items():
    if not isinstance(forward, CachedTeacher):
      check_forward(f"pass_loss: {name}", forward)
  for role, row in passes.items():
    if not isinstance(row, methods.Pass):
      raise TypeError(
        f"pass_loss: the pass {role!r} is a {type(row).__name__}; expected a "
        "Pass."
      )
    if row.network not in {*forwards, "average"}:
      raise ValueError(
        f"pass_loss: the pass {role!r} is of the network {row.network!r}; "
        f"expected one of {sorted(forwards)}, or 'average'."
      )
  forwards = dict(forwards)
  if "student" in forwards:
    forwards.setdefault("average", forwards["student"])
  return LossFn(forwards, dict(passes), objective, prepare)


def views_of(
  passes: Mapping[str, methods.Pass],
  views: Mapping[str, Callable[[Array, Any], Any]],
  augment: Callable[[Array, Any], Any] | None,
  on: str | tuple[str, ...],
  needed: tuple[str, ...] = (),
) -> Prepare | None:
  """Prepares a batch: adds the views that passes read, then augments inputs.

  Args:
    passes: role -> `Pass`.
    views: name -> `(key, batch) -> inputs`; the batch is the part whose
      examples the pass sees, with one batch axis.
    augment: `(key, inputs) -> inputs`, of the inputs of the student.
    on: the entry of the inputs; of several, the first is augmented.
    needed: views that are added although no pass reads them.

  Returns:
    A function for `pass_loss`, or None if there is nothing to do.
  """
  first = on if isinstance(on, str) else on[0]
  rows = [
    (*entry.rpartition(".")[::2], row.batch_axes, row.train)
    for row in passes.values()
    for entry in ((row.on,) if isinstance(row.on, str) else row.on)
  ]
  added = dict.fromkeys(
    (part, name, axes) for part, name, axes, _ in rows if name in views
  )
  read = {name for _, name, _ in added}
  added |= {("", x, 1): None for x in needed if x in views and x not in read}
  changed = dict.fromkeys(
    (part, axes) for part, name, axes, train in rows if name == first and train
  )
  changed = changed if augment is not None else {}
  if not added and not changed:
    return None

  def prepare(key: Array, batch: Any, run: Any) -> Any:
    del run
    names = list(views)
    own_parts = [part for part, *_ in (*rows, *added)]
    parts = {part: batch[part] if part else batch for part in own_parts}
    seen: dict[Any, Any] = {part: {} for part in parts}
    # Views are of the examples as they came. The first one has the key of the
    # augmentation; two views by one function must differ.
    for part, name, axes in added:
      own = _own_key(key, part, names.index(name))
      flat, restored = _folded(parts[part], axes)
      seen[part][name] = restored(views[name](own, flat))
    for part, axes in changed:
      inputs = ops.get_entry("the loss: batch", parts[part], first)
      flat, restored = _folded(inputs, axes)
      assert augment is not None
      seen[part][first] = restored(augment(_own_key(key, part, 0), flat))
    inner = {k: {**parts[k], **own} for k, own in seen.items() if k}
    return {**batch, **inner, **seen.get("", {})}

  return prepare


def _own_key(key: Array, part: str, number: int) -> Array:
  """The key of a view of a part; of the batch itself, the first has `key`."""
  if part:
    key = jax.random.fold_in(key, zlib.crc32(part.encode()))
  return jax.random.fold_in(key, number) if number else key


def _folded(tree: Any, axes: int) -> tuple[Any, Callable[[Any], Any]]:
  """Arrays with one batch axis of several, and the way back."""
  if axes == 1:
    return tree, lambda x: x
  shape = _batch_shape(tree, axes)
  own = (
    {k: v for k, v in tree.items() if jnp.shape(v)[:axes] == shape}
    if isinstance(tree, Mapping)
    else tree
  )
  return _fold(own, axes), lambda out: jax.tree.map(
    lambda x: x.reshape(*shape, *x.shape[1:]), out
  )


def in_turn(first: Prepare | None, then: Prepare | None) -> Prepare | None:
  """Prepares a batch by two functions, the one after the other."""
  if first is None or then is None:
    return first or then
  one, other = first, then

  def prepare(key: Array, batch: Any, run: Any, **own: Any) -> Any:
    return other(key, one(key, batch, run), run, **own)

  vars(prepare)["__signature__"] = inspect.signature(other)
  return prepare


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
  return inspect.signature(function).parameters


def _part_names(passes: Mapping[str, methods.Pass]) -> list[str]:
  """The parts of the batch that passes read."""
  entries = [
    on
    for row in passes.values()
    for on in ((row.on,) if isinstance(row.on, str) else row.on)
  ]
  return sorted({on.partition(".")[0] for on in entries if "." in on})


def _check_parts(batch: Any, passes: Mapping[str, methods.Pass]) -> None:
  for name in _part_names(passes):
    ops.get_entry("the loss: batch", batch, name)


def _with_parts(
  batch: Any, passes: Mapping[str, methods.Pass], *, partial: bool = False
) -> Any:
  """Gives each part of the batch the entries beside the parts."""
  if not isinstance(batch, Mapping):
    raise TypeError(
      f"the loss: batch is a {type(batch).__name__}; expected a mapping, entry "
      "-> arrays."
    )
  entries = [
    on
    for row in passes.values()
    for on in ((row.on,) if isinstance(row.on, str) else row.on)
  ]
  names = [k for k in _part_names(passes) if k in batch or not partial]
  parts = {
    k: _as_domains(k, ops.get_entry("the loss: batch", batch, k), passes)
    for k in names
  }
  common = {k: v for k, v in batch.items() if k not in parts}
  # A pass on the batch itself (the current task beside replayed examples) has
  # examples of its own there: their mask is not that of the parts.
  apart = any("." not in on for on in entries)
  for name, own in parts.items():
    part = dict(own) if apart else common | dict(own)
    if "mask" in common and "mask" in own and not apart:
      part["mask"] = common["mask"] & own["mask"]
    parts[name] = _with_mask(part, passes, name)
  # A batch of parts alone has no examples of its own.
  if not parts or (apart and "mask" not in common):
    common = _with_mask(common, passes, "")
  return common | parts


def _as_domains(
  name: str, part: Any, passes: Mapping[str, methods.Pass]
) -> Any:
  """A part of one domain as `[1, batch, ...]`, where domains are read."""
  own = [
    row.batch_axes
    for row in passes.values()
    for on in ((row.on,) if isinstance(row.on, str) else row.on)
    if on.rpartition(".")[0] == name
  ]
  known = [part[k] for k in ("label", "mask") if k in part]
  if not own or set(own) != {2} or not known or jnp.ndim(known[0]) != 1:
    return part
  return jax.tree.map(lambda x: jnp.asarray(x)[None], dict(part))


def _with_mask(part: Any, passes: Mapping[str, methods.Pass], name: str) -> Any:
  """Gives a part without a mask one of real examples."""
  if "mask" in part:
    return part
  for row in passes.values():
    for on in (row.on,) if isinstance(row.on, str) else row.on:
      own, _, entry = on.rpartition(".")
      if own == name and entry in part:
        shape = _batch_shape(part[entry], row.batch_axes)
        return {**part, "mask": jnp.ones(shape, bool)}
  where = f"the loss: batch[{name!r}]" if name else "the loss: batch"
  return ops.get_entry(where, part, "mask")


def _inputs(batch: Any, on: str | tuple[str, ...]) -> Any:
  """The inputs of a pass: an entry, or a dictionary of several."""
  if isinstance(on, tuple):
    return {name.rpartition(".")[2]: _inputs(batch, name) for name in on}
  part, _, name = on.rpartition(".")
  where = f"the loss: batch[{part!r}]" if part else "the loss: batch"
  return ops.get_entry(where, batch[part] if part else batch, name)


def _check_paired(batch: Any, passes: Mapping[str, methods.Pass]) -> None:
  """Raises ValueError if entries of one part differ in their examples."""
  first: dict[str, tuple[str, int]] = {}
  for row in passes.values():
    for on in (row.on,) if isinstance(row.on, str) else row.on:
      part = on.rpartition(".")[0]
      shapes = [jnp.shape(x) for x in jax.tree.leaves(_inputs(batch, on))]
      size = shapes[0][0] if shapes and shapes[0] else 0
      other, expected = first.setdefault(part, (on, size))
      if size != expected:
        raise ValueError(
          f"the loss: batch[{on!r}] has {size} rows and batch[{other!r}] "
          f"{expected}; expected paired entries: row i of each is the same "
          "example."
        )


def _part(batch: Any, on: str | tuple[str, ...]) -> Any:
  """The part of the batch that an entry is in."""
  first = on if isinstance(on, str) else on[0]
  part, _, _ = first.rpartition(".")
  return batch[part] if part else batch


def _groups(
  passes: Mapping[str, methods.Pass],
) -> list[tuple[list[str], methods.Pass]]:
  """The roles that run as one batch, in the order of the first of each."""
  groups: dict[Any, tuple[list[str], methods.Pass]] = {}
  for role, row in passes.items():
    key = role if row.joint is None else (row.network, row.joint)
    roles, first = groups.setdefault(key, ([], row))
    if (row.train, row.gradient) != (first.train, first.gradient):
      raise ValueError(
        f"the pass {role!r} and {roles[0]!r} are joint; expected the same "
        "train and gradient."
      )
    roles.append(role)
  return list(groups.values())


def _joined(roles: list[str], inputs: list[Any]) -> Any:
  """The inputs of joint passes as one batch."""
  if len(inputs) == 1:
    return inputs[0]
  shapes = [jax.tree.map(lambda x: jnp.shape(x)[1:], x) for x in inputs]
  for role, shape in zip(roles[1:], shapes[1:], strict=True):
    if shape != shapes[0]:
      raise ValueError(
        f"the inputs of {role!r} have the shape {shape} behind the batch; "
        f"expected that of {roles[0]!r}, {shapes[0]}, to run as one batch."
      )
  return jax.tree.map(lambda *x: jnp.concatenate(x), *inputs)


def _batch_shape(inputs: Any, axes: int) -> tuple[int, ...]:
  return jnp.shape(jax.tree.leaves(inputs)[0])[:axes] or (1,)


def _fold(inputs: Any, axes: int) -> Any:
  """Makes one batch axis of several."""
  if axes == 1:
    return inputs
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), inputs)


# The fields of `Outputs` that have a batch axis.
_BATCHED = ("logits", "features", "embedding", "preactivations", "attention")


def _rows(
  outputs: nets.Outputs, rows: slice, shape: tuple[int, ...]
) -> nets.Outputs:
  """Some examples of the outputs, with all their batch axes."""
  if rows == slice(None) and len(shape) == 1:
    return outputs

  def take(x: Array) -> Array:
    return x[rows].reshape(*shape, *x.shape[1:])

  changes = {k: jax.tree.map(take, getattr(outputs, k)) for k in _BATCHED}
  return outputs._replace(**changes)
