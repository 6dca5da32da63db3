"""Regression of the teacher's embedding (CSE-L2)."""

from typing import Any

from flax import nnx
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _l2() -> Objective:
  """By `kdjax.distillation.hint_loss`, of the embeddings.

  A student's embedding of another width than the teacher's goes through a
  linear layer first.
  """

  def loss(
    projection: Any, student_embeddings: Any, teacher_embeddings: Any
  ) -> Array:
    return distillation.hint_loss(
      projection(student_embeddings), teacher_embeddings
    )

  return modular(Projection, loss)


class Projection(nnx.Module):
  """A student's embedding at the teacher's width."""

  def __init__(
    self, student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ):
    inputs = student_embeddings.shape[-1]
    outputs = teacher_embeddings.shape[-1]
    self.linear = (
      None if inputs == outputs else layers.linear(inputs, outputs, rngs=rngs)
    )

  def __call__(self, x: Array) -> Array:
    return x if self.linear is None else self.linear(x)


ROWS = {
  "l2": row(
    "features",
    "CSE-L2, Zhang 2020",
    "regresses the teacher's embedding",
    _l2,
    weight=15.0,
    source="torchdistill, ce_l2-resnet18_from_resnet34.yaml",
  ),
}
