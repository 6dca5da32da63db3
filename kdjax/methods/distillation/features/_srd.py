"""Simple recipe distillation (SRD)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import last_maps
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _srd(*, exponent: ArrayLike = 4.0) -> Objective:
  """By `kdjax.distillation.srd_loss`, of the pooled last features.

  The student's go through a linear layer; both are batch-normalized without
  scale and bias.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(pooled, student, teacher)
    width = theirs.shape[-1]
    norms = {
      f"{role}_norm": nnx.BatchNorm(
        width,
        momentum=0.9,
        epsilon=1e-4,
        use_bias=False,
        use_scale=False,
        rngs=rngs,
      )
      for role in ("student", "teacher")
    }
    # Batch normalization takes a bias away.
    projector = layers.linear(ours.shape[-1], width, use_bias=False, rngs=rngs)
    return nnx.Dict(projector=projector, **norms)

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    where: Any,
    *,
    exponent: Array,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = pooled(student, teacher)
    return distillation.srd_loss(
      parts["student_norm"](parts["projector"](ours)),
      parts["teacher_norm"](theirs),
      exponent=exponent,
      where=where,
      axis_name=axis_name,
    )

  return modular(build, loss, exponent=exponent)


def pooled(student: nets.Outputs, teacher: nets.Outputs) -> tuple[Array, Array]:
  ours, theirs = last_maps(student, teacher)
  return layers.global_mean(ours), layers.global_mean(theirs)


ROWS = {
  "srd": row(
    "features",
    "Simple recipe distillation, Miles 2024",
    "matches projected and batch-normalized embeddings by a high power",
    _srd,
    kd=1.0,
    temperature=1.0,
    source="torchdistill, srd",
  ),
}
