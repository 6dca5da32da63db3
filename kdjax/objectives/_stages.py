"""Which features of a student and a teacher belong together."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


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
  names = sorted(outputs.features)
  if not names:
    raise ValueError(
      f"{role} has no features; expected a network that returns some."
    )
  return names[1:] or names


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
