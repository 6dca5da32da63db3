"""Correlation congruence (CC), and losses of learned embeddings."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row
from kdjax.nets import layers


def _cc(
  *,
  form: str = "adjacent",
  dim: int = 128,
  gamma: ArrayLike = 0.4,
  order: int = 2,
) -> Objective:
  """By `kdjax.distillation.cc_loss`, of learned embeddings of width `dim`.

  Both networks' embeddings pass through a linear layer, which is trained with
  the student, the teacher's too, as in RepDistiller. Nothing keeps the two
  layers from mapping all examples to one point, where the loss is 0: weigh it
  as the authors do, or use the pure loss.
  """
  ops.check_choice("form", form, ("kernel", "adjacent"))

  loss = functools.partial(distillation.cc_loss, form=form, order=order)
  return learned_embeddings(loss, dim, gamma=gamma)


def learned_embeddings(
  loss: Callable[..., Array],
  dim: int,
  **hyperparameters: Any,
) -> Objective:
  """Makes the objective of a loss between learned embeddings."""

  def build(
    student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ) -> _Embeddings:
    widths = student_embeddings.shape[-1], teacher_embeddings.shape[-1]
    return _Embeddings(*widths, dim, rngs)

  def compare(
    module: _Embeddings,
    student_embeddings: Any,
    teacher_embeddings: Any,
    where: Any,
    *,
    axis_name: str | None,
    **hyper: Array,
  ) -> Array:
    return loss(
      module.student(student_embeddings),
      # The layer learns; the network behind it does not.
      module.teacher(jax.lax.stop_gradient(teacher_embeddings)),
      where=where,
      axis_name=axis_name,
      stop_teacher_gradient=False,
      **hyper,
    )

  return modular(build, compare, **hyperparameters)


class _Embeddings(nnx.Module):
  """A linear embedding of each network into one space."""

  def __init__(self, student: int, teacher: int, dim: int, rngs: nnx.Rngs):
    self.student = layers.linear(student, dim, rngs=rngs)
    self.teacher = layers.linear(teacher, dim, rngs=rngs)


ROWS = {
  "cc": row(
    "relations",
    "Correlation congruence, Peng 2019",
    "matches the correlations between learned embeddings",
    _cc,
    weight=0.02,
    source=REPDISTILLER,
  ),
}
