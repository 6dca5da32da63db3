"""What a method does with all examples: before the run, and before epochs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdjax import nets, ops
from kdjax.training.learners._learner import Learner
from kdjax.training.loop._feeds import Feed, PlannedPart
from kdjax.training.loop._students import Students, over, student_of
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.steps._state import TrainState

_VALIDATION = "validation"


def change_data(
  learner: Learner,
  feed: Feed,
  unread: Feed | None,
  sets: Mapping[str, Feed],
  before: TrainState | None,
  students: Students | None,
) -> None:
  """Puts what `Method.data` makes of all arrays in the place of the data.

  Args:
    learner: of the method.
    feed: the training data.
    unread: the training data of the domains that no pass reads.
    sets: the validation data, by name.
    before: the state that the stage before left, if there was one.
    students: of the run.
  """
  change = learner.method.data
  if change is None:
    return
  feeds = [("", feed), *([("", unread)] if unread is not None else [])]
  feeds += [
    (f"{_VALIDATION}/{name}" if name else _VALIDATION, own)
    for name, own in sets.items()
  ]
  places: dict[str, tuple[Feed, str]] = {}
  data: dict[str, dict[str, Any]] = {}
  for title, own in feeds:
    arrays = own.arrays()
    if arrays is None:
      raise ValueError(
        f"fit: {learner.method.name} reads all data before the first step, and "
        f"{title or 'data'} comes in batches; expected arrays or another data "
        "set that is read by index."
      )
    for domain, entries in arrays.items():
      name = title or domain
      hidden = ("label",) if title or domain == "target" else ()
      places[name] = own, domain
      data[name] = {k: v for k, v in entries.items() if k not in hidden}
  old = {name: dict(entries) for name, entries in data.items()}
  new = change(data, _answer_of(learner, before, students))
  for name, entries in new.items():
    if name not in places:
      raise ValueError(
        f"fit: the data of {learner.method.name} has {name!r}; expected "
        f"{', '.join(places)}."
      )
    own, domain = places[name]
    arrays = own.arrays()
    assert arrays is not None
    kept = {k: v for k, v in arrays[domain].items() if k not in old[name]}
    own.put_arrays(domain, kept | dict(entries))


def _answer_of(
  learner: Learner, before: TrainState | None, students: Students | None
) -> Callable[[Any], nets.Outputs] | None:
  """The student of the stage before, in evaluation mode."""
  if before is None:
    return None
  own = before
  if students is not None:
    own = student_of(before, 0)
  forward = learner.loss_fn.forwards["student"]
  assert not isinstance(forward, CachedTeacher)

  def answer(inputs: Any) -> nets.Outputs:
    if students is not None and not students.one_seed:
      raise ValueError(
        f"fit: the data of {learner.method.name} depend on the student of the "
        "stage before, and students have several seeds; expected one seed, or "
        "a call of fit for each."
      )
    return forward(own.student, inputs, train=False, key=None)[0]

  return answer


def renewal_of(
  learner: Learner, feed: Feed, students: Students | None, place: Any
) -> tuple[int, Callable[[TrainState], TrainState]] | None:
  """What `Objective.renew` does before each epoch of the target.

  Args:
    learner: of the objective.
    feed: the training data.
    students: of the run.
    place: copies arrays to the devices of the states.

  Returns:
    The steps of an epoch, and a function of the state; None if there is
    nothing to renew.
  """
  renew = learner.loss_fn.objective.renew
  if renew is None:
    return None
  name = learner.method.name
  row = ops.get_entry(f"fit: {name}: passes", learner.loss_fn.passes, "target")
  part = feed.part("target")
  if not isinstance(part, PlannedPart):
    raise ValueError(
      f"fit: {name} reads all target examples before each epoch, and they come "
      "in batches; expected arrays or another data set that is read by index."
    )
  forward = learner.loss_fn.forwards[row.network]
  if isinstance(forward, CachedTeacher):
    raise TypeError(f"fit: {name}: target is of a cache; expected a network.")
  network = forward

  def look(state: TrainState, batch: Any) -> nets.Outputs:
    inputs = _inputs(batch, row.on)
    variables = state.network(row.network)
    outputs, _ = network(variables, inputs, train=False, key=None)
    return nets.Outputs(outputs.logits, {}, outputs.embedding)

  def renewed(state: TrainState, outputs: nets.Outputs) -> TrainState:
    own = renew(state.state["objective"], {"target": outputs})
    return state._replace(state=state.state | {"objective": own})

  look_all = jax.jit(over(students, look, "batch"))
  renew_all = jax.jit(over(students, renewed))
  in_order = part.in_order()
  axis = int(students is not None)

  def run(state: TrainState) -> TrainState:
    # The optimizer's state and the memories of the loss are not looked at.
    seen = [
      look_all(state, place(in_order.read(in_order.rows(step))))
      for step in range(in_order.steps)
    ]
    seen = jax.tree.map(
      lambda *x: np.concatenate([np.asarray(y) for y in x], axis), *seen
    )
    count = len(in_order.examples)
    outputs = jax.tree.map(
      lambda x: x[(slice(None),) * axis + (slice(count),)], seen
    )
    return renew_all(state, place(outputs))

  return part.steps, run


def _inputs(part: Any, on: str | tuple[str, ...]) -> Any:
  """The inputs of a pass, in a batch of its domain."""
  if isinstance(on, tuple):
    return {name.rpartition(".")[2]: _inputs(part, name) for name in on}
  return ops.get_entry("fit: data['target']", part, on.rpartition(".")[2])
