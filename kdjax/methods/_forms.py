"""The passes of a method, by the networks, domains and views that it reads."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kdjax.methods._binding import parameter_names
from kdjax.methods._method import INPUTS, Method, Needs, Pass
from kdjax.methods._objective import Objective, stateless

# Roles that no step trains.
_FROZEN = re.compile(r"(teacher|past|stale|consensus)(_\w+)?$")
_MANY = 2  # `[domains, batch, ...]`


def is_frozen(role: str) -> bool:
  """Whether a network of this role stays as it is.

  Args:
    role: such as `"teacher"`.

  Returns:
    Whether no step trains it.
  """
  return bool(_FROZEN.match(role))


def make_passes(
  area: str,
  networks: Iterable[str] = (),
  domains: Sequence[str] = (),
  views: Iterable[str] = (),
) -> dict[str, Pass]:
  """The passes of a method of an area.

  Args:
    area: the room of its losses.
    networks: the roles beside the student: `"teacher"`, `"past"`, `"average"`,
      `"peer_0"`, `"stale_0"`, `"teacher_1"`, `"student_image"`.
    domains: the parts of the batch that it reads.
    views: the other views of the examples.

  Returns:
    role -> `Pass`.
  """
  networks, views = tuple(networks), tuple(views)
  if area == "adaptation":
    table = {
      part: Pass(on=f"{part}.{INPUTS}", train=True, joint="domains")
      for part in domains or ("source", "target")
    }
    table |= {
      f"target_{view}": Pass(on=f"target.{view}", train=True) for view in views
    }
    return table | {
      f"{part}_teacher": Pass(network, f"{part}.{INPUTS}")
      for network in networks
      for part in domains or ("source", "target")
    }
  if area == "generalization":
    table = {"student": Pass(train=True, batch_axes=_MANY)}
    return table | {
      f"student_{view}": Pass(on=view, train=True, batch_axes=_MANY)
      for view in views
    }
  peers = [name for name in networks if name.startswith("peer_")]
  towers = [name for name in networks if name.startswith("student_")]
  table = {name: Pass(name, train=True) for name in peers}
  table |= {
    name: Pass(name, name.removeprefix("student_"), train=True)
    for name in towers
  }
  if area == "finetuning" and domains:
    table |= {
      part: Pass(on=f"{part}.{INPUTS}", train=True, joint="parts")
      for part in domains
    }
  elif not table:
    table["student"] = Pass(train=True)
    table |= {part: Pass(on=f"{part}.{INPUTS}", train=True) for part in domains}
  table |= {f"student_{view}": Pass(on=view, train=True) for view in views}
  for name in networks:
    if name in table:
      continue
    modality = name.removeprefix("teacher_")
    apart = bool(towers) and modality != name
    table[name] = Pass(name, modality) if apart else Pass(name)
    if name == "teacher":
      table |= {f"teacher_{view}": Pass(name, view) for view in views}
  return table


def from_loss(
  loss: Callable[..., Any] | Objective,
  networks: Iterable[str] = ("student",),
  *,
  area: str = "",
  views: Iterable[str] = (),
  domains: Sequence[str] = (),
  **hyperparameters: Any,
) -> Method:
  """Method of a loss function alone, or of an objective.

  Args:
    loss: a function whose argument names say what it reads, such as
      `mine(student_logits, teacher_logits, labels)`, or an `Objective`.
    networks: the roles of the caller's networks.
    area: the form of the batch; by default that of the argument names.
    views: the other views of the examples that the caller gives.
    domains: the parts of the batch that the student sees; by default those
      that the argument names begin with.
    **hyperparameters: of the loss.

  Returns:
    A `Method` whose passes are those of the caller's networks.
  """
  names: Sequence[str] = ()
  if isinstance(loss, Objective):
    if hyperparameters:
      raise ValueError(
        f"{', '.join(hyperparameters)} given beside an Objective; expected "
        "them where it is made."
      )
    objective, title = loss, "objective"
  else:
    names = hyperparameters.get("select") or parameter_names(loss)
    title = getattr(loss, "__name__", "loss")
    objective = stateless(loss, **hyperparameters)
  first = {name.partition("_")[0] for name in names if isinstance(name, str)}
  parts = tuple(part for part in ("source", "target") if part in first)
  area = area or ("adaptation" if parts else "distillation")
  if area == "adaptation":
    domains = domains or parts
  others = tuple(name for name in networks if name != "student")
  frozen = tuple(name for name in others if is_frozen(name))
  return Method(
    objective,
    make_passes(area, others, domains, views),
    needs=Needs(frozen, views=tuple(views)),
    name=title,
  )


def bound_inputs(
  passes: Mapping[str, Pass], on: str | tuple[str, ...]
) -> dict[str, Pass]:
  """The passes with the caller's inputs in place of `"*"`.

  Args:
    passes: role -> `Pass`.
    on: the entry of the batch, or several.

  Returns:
    role -> `Pass`.
  """

  def bound(entry: str) -> str | tuple[str, ...]:
    prefix, star, rest = entry.partition(INPUTS)
    if not star or rest:
      return entry
    if isinstance(on, str):
      return prefix + on
    return tuple(prefix + name for name in on)

  return {
    role: row._replace(on=bound(row.on)) if isinstance(row.on, str) else row
    for role, row in passes.items()
  }
