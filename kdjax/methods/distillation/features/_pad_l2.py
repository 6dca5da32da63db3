"""Prime-aware adaptive distillation (PAD)."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._l2 import Projection
from kdjax.nets import layers


def _pad_l2(*, eps: ArrayLike = 1e-6) -> Objective:
  """By `kdjax.distillation.pad_l2_loss`, of the embeddings.

  The log-variance comes from the student's embedding by a linear layer and
  batch normalization. An embedding of another width than the teacher's goes
  through a linear layer first.

  Departs from the paper: the student starts as the caller gives it; there it
  was trained by `l2` before.
  """

  def loss(
    branch: Any,
    student_embeddings: Any,
    teacher_embeddings: Any,
    *,
    eps: Array,
  ) -> Array:
    embeddings, log_variance = branch(student_embeddings)
    return distillation.pad_l2_loss(
      embeddings, teacher_embeddings, log_variance, eps=eps
    )

  return modular(_VarianceBranch, loss, eps=eps)


class _VarianceBranch(nnx.Module):
  """A student's embedding at the teacher's width, and its log-variance."""

  def __init__(
    self, student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ):
    self.projection = Projection(student_embeddings, teacher_embeddings, rngs)
    width = teacher_embeddings.shape[-1]
    # Batch normalization takes a bias away.
    self.linear = layers.linear(width, width, use_bias=False, rngs=rngs)
    self.norm = layers.batch_norm(width, rngs=rngs)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    x = self.projection(x)
    return x, self.norm(self.linear(x))


ROWS = {
  "pad_l2": row(
    "features",
    "Prime-aware adaptive distillation, Zhang 2020",
    "regresses the teacher's embedding with a learned variance",
    _pad_l2,
    source="torchdistill, after CSE-L2",
  ),
}
