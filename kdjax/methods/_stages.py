"""Which features of a student and a teacher belong together."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import nets


def matched_stages(student: Any, teacher: Any) -> list[tuple[str, str]]:
  """Pairs the names of the stages of student and teacher.

  The first feature, the stem, is left out where there are others. Stages are
  paired in order; of unequally many, the deepest.

  Args:
    student: the student's outputs or their shapes.
    teacher: the teacher's.

  Returns:
    Pairs (student's name, teacher's name), from shallow to deep.

  Raises:
    ValueError: if one of the two has no features.
  """
  names = [_stages("student", student), _stages("teacher", teacher)]
  count = min(map(len, names))
  return list(zip(*(stages[-count:] for stages in names), strict=True))


def _stages(role: str, outputs: Any) -> list[str]:
  names = sorted(field_of(role, outputs, "features"))
  if not names:
    raise ValueError(
      f"{role} has no features; expected a network that returns some."
    )
  return names[1:] or names


def select_stages(
  student: nets.Outputs,
  teacher: nets.Outputs,
  *,
  student_side: str = "features",
  teacher_side: str = "features",
  stem: bool = False,
) -> tuple[list[Array], list[Array]]:
  """Selects the maps of the stages that belong together, as two lists.

  The sides are names of fields of `Outputs`, such as "preactivations".
  """
  names = matched_stages(student, teacher)
  if stem:
    first = min(student.features), min(teacher.features)
    names = names if names[0] == first else [first, *names]
  ours, theirs = zip(*names, strict=True)
  return (
    maps_of("student", student, student_side, ours),
    maps_of("teacher", teacher, teacher_side, theirs),
  )


def maps_of(
  role: str, outputs: nets.Outputs, side: str, names: Sequence[str]
) -> list[Array]:
  """Some of a network's features or pre-activations, as maps."""
  return [as_map(field_of(role, outputs, side)[name]) for name in names]


def field_of(role: str, outputs: nets.Outputs | None, side: str) -> Any:
  """A field of a network's outputs, or a word on why there is none."""
  if outputs is None:
    raise ValueError(f"there is no {role}; expected one that gives {side}.")
  values = getattr(outputs, side, None)
  if values is None:
    raise ValueError(
      f"{role} has no {side}; expected a network that returns some."
    )
  return values


def last_feature(role: str, outputs: nets.Outputs) -> Array:
  """The deepest feature of a network, as it gives it."""
  return outputs.features[_stages(role, outputs)[-1]]


def select_last_stage(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[Array, Array]:
  """Selects the deepest features of both, before pooling."""
  names = matched_stages(student, teacher)[-1]
  return student.features[names[0]], teacher.features[names[1]]


def last_maps(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[Array, Array]:
  """Selects the deepest maps of both."""
  ours, theirs = select_stages(student, teacher)
  return ours[-1], theirs[-1]


def all_stages(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[list[Array], list[Array]]:
  """All stages of each network, of which there may be unequally many."""
  ours, theirs = (
    maps_of(role, x, "features", [name for name, _ in matched_stages(x, x)])
    for role, x in (("student", student), ("teacher", teacher))
  )
  return ours, theirs


def as_map(feature: Array) -> Array:
  """Returns a feature as a map `[batch, height, width, channels]`.

  Units `[batch, units]` become a map of one position. Tokens `[batch, tokens,
  width]` become the square grid of the patches, without the one or two tokens
  (class, distillation) that may precede them; where there is no such grid, a
  map of one row.
  """
  if feature.ndim == 3:
    side = math.isqrt(feature.shape[1])
    others = feature.shape[1] - side**2
    if others <= 2:
      shape = (feature.shape[0], side, side, feature.shape[2])
      return jnp.reshape(feature[:, others:], shape)
  return jnp.reshape(
    feature, (feature.shape[0], *(1,) * (4 - feature.ndim), *feature.shape[1:])
  )
