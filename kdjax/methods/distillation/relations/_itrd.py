"""Information-theoretic representation distillation (ITRD)."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _itrd(
  *,
  correlation_weight: ArrayLike = 2.0,
  mutual_weight: ArrayLike = 0.05,
  alpha: ArrayLike = 1.5,
) -> Objective:
  """By `kdjax.distillation.itrd_correlation_loss` and `itrd_mutual_loss`.

  The student's embedding passes through a linear layer of the teacher's width.
  As in the authors' code, the mutual term leaves the layer out where both
  networks have the same width; for a pair of like networks they take a mutual
  weight of 1 and `alpha` 1.01.
  """

  def build(
    student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ) -> nnx.Linear:
    widths = student_embeddings.shape[-1], teacher_embeddings.shape[-1]
    return layers.linear(*widths, rngs=rngs)

  def loss(
    module: nnx.Linear,
    student_embeddings: Any,
    teacher_embeddings: Any,
    where: Any,
    *,
    correlation_weight: Array,
    mutual_weight: Array,
    alpha: Array,
    axis_name: str | None,
  ) -> Array:
    rest = {"where": where, "axis_name": axis_name}
    embedded = module(student_embeddings)
    like = module.in_features == module.out_features
    correlation = distillation.itrd_correlation_loss(
      embedded, teacher_embeddings, alpha=alpha, **rest
    )
    mutual = distillation.itrd_mutual_loss(
      student_embeddings if like else embedded, teacher_embeddings, **rest
    )
    return correlation_weight * correlation + mutual_weight * mutual

  return modular(
    build,
    loss,
    correlation_weight=correlation_weight,
    mutual_weight=mutual_weight,
    alpha=alpha,
  )


ROWS = {
  "itrd": row(
    "relations",
    "Information-theoretic representation distillation, Miles 2022",
    "maximizes correlation and mutual information of the embeddings",
    _itrd,
    source="ITRD, train_student.py",
  ),
}
