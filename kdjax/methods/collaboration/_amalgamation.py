"""Amalgamation of teachers of other classes."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.collaboration._row_kinds import taught


def _amalgamation(
  teacher_classes: Any, *, temperature: ArrayLike = 1.0
) -> Objective:
  """Amalgamation: each teacher classifies among its own classes."""
  classes = tuple(jnp.asarray(x) for x in teacher_classes)

  def select(outputs: Any, student_logits: Array) -> tuple[Array, Any]:
    names = [f"teacher_{i}" for i in range(len(classes))]
    found = [k for k in outputs if re.fullmatch(r"teacher_\d+", k)]
    if len(found) > len(names):
      raise ValueError(
        f"amalgamation: teacher_classes has {len(names)} lists for "
        f"{len(found)} teachers; expected one list a teacher."
      )
    teachers = [
      ops.get_entry("amalgamation: outputs", outputs, name).logits
      for name in names
    ]
    return student_logits, teachers

  def loss(
    student_logits: Array, teacher_logits: Any, *, temperature: ArrayLike
  ) -> Array:
    return collaboration.amalgamation_loss(
      student_logits,
      jax.lax.stop_gradient(teacher_logits),
      classes,
      temperature=temperature,
    )

  return stateless(loss, select, temperature=temperature)


ROWS = {
  "amalgamation": taught(
    "amalgamation",
    "each of several teachers classifies among its own classes",
    _amalgamation,
    networks=("teacher_0", "teacher_1"),
    cross_entropy=0.0,
    source="paper, with the divergence for its cross-entropy",
  ),
}
