"""Pairs of a student's and a teacher's feature maps, stage by stage."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation._inputs import as_pair


def stage_pairs(
  name: str,
  student: Sequence[ArrayLike],
  teacher: Sequence[ArrayLike],
  stop_teacher_gradient: bool,
) -> list[tuple[Array, Array]]:
  """Pairs the maps of each stage, or raises an error if they do not match."""
  for side, maps in (("student", student), ("teacher", teacher)):
    if not hasattr(maps, "__len__"):
      raise TypeError(
        f"{name}: {side}_features is {maps!r}; expected a sequence of maps, "
        "one a stage."
      )
  if len(student) != len(teacher):
    raise ValueError(
      f"{name}: teacher_features holds {len(teacher)} maps; expected "
      f"{len(student)}, as many as student_features."
    )
  pairs = []
  for i, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
    ours, theirs = jnp.asarray(ours), jnp.asarray(theirs)
    for side, maps in (("student", ours), ("teacher", theirs)):
      if not jnp.issubdtype(maps.dtype, jnp.floating):
        raise TypeError(
          f"{name}: {side}_features[{i}] has dtype {maps.dtype}; expected "
          "float."
        )
      if maps.ndim != 4:
        raise ValueError(
          f"{name}: {side}_features[{i}] has shape {maps.shape}; expected "
          "[batch, height, width, channels]."
        )
    if (ours.shape[0], ours.shape[3]) != (theirs.shape[0], theirs.shape[3]):
      raise ValueError(
        f"{name}: teacher_features[{i}] has shape {theirs.shape}; expected the "
        f"batch and channels of student_features[{i}], {ours.shape}."
      )
    pairs.append(as_pair(ours, theirs, stop_teacher_gradient))
  return pairs
