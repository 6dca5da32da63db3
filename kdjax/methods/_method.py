"""A method as one object: pure functions and small tables."""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdjax.methods._objective import Objective

# The entry of the batch that the learner's `on` names.
INPUTS = "*"
NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Pass(NamedTuple):
  """Pass: one network on one entry of the batch; its name is the role.

  Attributes:
    network: the name of the network: a trained one such as `"student"`, a
      frozen one such as `"teacher"` or `"past"`, or `"average"`, the average
      of the student's parameters that `methods.parameter_ema` keeps.
    on: the entry of the batch: `"*"` for the one that the learner's `on`
      names, `"tokens"`, `"source.*"` for an entry of a part; or a tuple of
      entries, of which the network gets the dictionary. The network gets the
      entry as it is: an array of any shape, or a pytree of several inputs.
    train: whether the network runs in training mode: with dropout, and with
      batch statistics that move. Statistics follow from pass to pass. A
      network is trained if one of its passes is in training mode.
    gradient: whether the trained network's parameters get a gradient from
      this pass. A gradient by the inputs always passes.
    joint: passes of one network with the same word here run as one batch and
      so share batch statistics; None runs a pass alone.
    batch_axes: how many axes of the inputs are batch axes, such as 2 for
      `[domains, batch, ...]`; the network sees one, the outputs have all.

  References:
    `kdjax.training.learner` runs them.
  """

  network: str = "student"
  on: str | tuple[str, ...] = INPUTS
  train: bool = False
  gradient: bool = True
  joint: str | None = None
  batch_axes: int = 1


class Update(NamedTuple):
  """Update: a way from the loss to the updates of the parameters.

  Attributes:
    init: `(params, optimizer) -> state`, with the optimizer's own state and
      hyper-parameters of its own.
    apply: `(loss, params, batch, key, state, optimizer) -> (value, aux),
      updates, state`. `loss(params, batch, *, part=None, state=None) -> value,
      (state, metrics)` is that of all devices; `part` names one of
      `Objective.parts`, or several, whose losses are then a vector, and `state`
      is that of the networks and the objective, by default as it was before the
      step. `optimizer` is an Optax transformation with any extra arguments,
      whose gradients are averaged over the devices. If `apply` has a parameter
      `axis_name`, it gets the mapped axis.

  References:
    `optax.GradientTransformation
    <https://optax.readthedocs.io/en/latest/api/transformations.html>`_.
  """

  init: Callable[[Any, Any], Any]
  apply: Callable[..., tuple[tuple[Any, Any], Any, Any]]


class Needs(NamedTuple):
  """Needs: what a method asks of its caller.

  Attributes:
    networks: the frozen networks that it reads, by role.
    trained: networks that are trained beside the student, by role, although
      no pass of theirs is in training mode.
    views: the further views of the examples that it reads, by name.
    start: the stage before it that leaves the student's first weights, if the
      method has no `before` for it: `"past"`, a pretrained network.

  References:
    `kdjax.training.learner` names what is missing.
  """

  networks: tuple[str, ...] = ()
  trained: tuple[str, ...] = ()
  views: tuple[str, ...] = ()
  start: str = ""


class Method(NamedTuple):
  """Method: everything that a published method is.

  `create` makes one from its name. A method of one's own is made from the same
  parts: `Method(objective, passes=...)`, or `create("kd")._replace(...)`.

  Attributes:
    objective: the losses, with their parts and state; None, from a factory of
      a row, for those that the row adds.
    passes: role -> `Pass`; by default those that the objective's names ask for.
    prepare: `(key, batch, run) -> batch` before the passes: mixtures, attacks
      and maps of the batch. `run(network, inputs, gradient=False) -> Outputs`
      asks a network, in evaluation mode. If it has parameters of these names,
      it gets `on`, the learner's entry of the inputs, `state`, that of the
      objective, and `axis_name`, the mapped axis.
    update: the way from the loss to the updates, or None for the gradient.
    network: `student -> student`, a change of the student's network, or None.
    optimizer: `optimizer -> optimizer`, a change of the optimizer, or None.
    before: the stages before it, name -> `Method`, in their order.
    data: `(data, answer) -> data`, before the first step: weights of the
      source's examples, maps of both domains. `data` maps a domain to a
      mapping of arrays, without the target's labels; `answer(inputs) ->
      Outputs` is the student of the stage before, in evaluation mode, or None.
      Validation sets are further domains, also without labels: `"validation"`,
      or `"validation/<name>"` of several. Nothing is fitted on them; a map
      applies to them as it does to the target, and to
      `"validation/source"` as to the source. Entries of examples that are left
      out are dropped, domains that are left out stay. None changes nothing.
    needs: the networks, views and stages that the caller gives.
    name: for errors.

  Examples:
    >>> from kdjax import methods
    >>> methods.create("fish")
    Method(fish: update)

  References:
    `optax.GradientTransformation
    <https://optax.readthedocs.io/en/latest/api/transformations.html>`_ is the
    model: a tuple of pure functions.
  """

  objective: Objective | None = None
  passes: Mapping[str, Pass] = NOTHING
  prepare: Callable[..., Any] | None = None
  update: Update | None = None
  network: Callable[[Any], Any] | None = None
  optimizer: Callable[[Any], Any] | None = None
  before: Mapping[str, "Method"] = NOTHING
  data: Callable[..., Any] | None = None
  needs: Needs = Needs()
  name: str = "method"

  def __repr__(self) -> str:
    parts = [
      field
      for field in ("prepare", "update", "network", "optimizer", "data")
      if getattr(self, field) is not None
    ]
    parts += [f"after {stage}" for stage in self.before]
    parts += [f"needs {role}" for role in self.needs.networks]
    parts += [f"view {view}" for view in self.needs.views]
    return f"Method({': '.join(filter(None, (self.name, ', '.join(parts))))})"

  @property
  def trained(self) -> tuple[str, ...]:
    """The roles of the networks that are trained."""
    rows = [row.network for row in self.passes.values() if row.train]
    return tuple(dict.fromkeys((*rows, *self.needs.trained)))
