"""Knowledge review (ReviewKD)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import as_map, field_of, select_stages
from kdjax.methods.distillation._row_kinds import MDISTILLER, row
from kdjax.nets import layers

_UNIFORM = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


def _review_kd(
  *,
  student_preactivations: bool = False,
  max_width: int = 512,
) -> Objective:
  """By `kdjax.distillation.hierarchical_context_loss`, of fused stages.

  From the deepest on, attention (ABF) fuses each of the student's stages with
  the fusion of the deeper ones, at the width of its embedding or `max_width`,
  whichever is less; the result is brought to the teacher's shape. The stages
  are those without the stem, and the embeddings as maps of one position. The
  teacher's are taken before their activation, and the student's too with
  `student_preactivations` (the authors' choice for some detectors).
  """
  student_side = "preactivations" if student_preactivations else "features"

  def select(
    student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[list[Array], list[Array]]:
    ours, theirs = select_stages(
      student,
      teacher,
      student_side=student_side,
      teacher_side="preactivations",
    )
    return (
      [*ours, as_map(field_of("student", student, "embedding"))],
      [*theirs, as_map(field_of("teacher", teacher, "embedding"))],
    )

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(select, student, teacher)
    width = min(max_width, ours[-1].shape[-1])
    return nnx.List(
      [
        _Fusion(
          a.shape[-1],
          width,
          b.shape[-1],
          deepest=i == len(ours) - 1,
          rngs=rngs,
        )
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
      ]
    )

  def loss(fusions: Any, student: nets.Outputs, teacher: nets.Outputs) -> Any:
    total: Any = 0.0
    fused = None
    stages = zip(fusions, *select(student, teacher), strict=True)
    for fusion, ours, theirs in reversed(list(stages)):
      output, fused = fusion(ours, fused, theirs.shape[1:3])
      total += distillation.hierarchical_context_loss(output, theirs)
    return total

  return modular(build, loss)


class _Fusion(nnx.Module):
  """Attention-based fusion (ABF) of a stage with the deeper ones."""

  def __init__(
    self,
    inputs: int,
    width: int,
    outputs: int,
    *,
    deepest: bool,
    rngs: nnx.Rngs,
  ):
    norm: dict[str, Any] = {
      "kernel_init": _UNIFORM,
      "rngs": rngs,
    }
    self.reduce = layers.ConvNorm(inputs, width, 1, **norm)
    self.expand = layers.ConvNorm(width, outputs, 3, **norm)
    self.attention = (
      None
      if deepest
      else layers.convolution(
        2 * width,
        2,
        1,
        use_bias=True,
        kernel_init=layers.TORCH_DEFAULT,
        rngs=rngs,
      )
    )

  def __call__(
    self, x: Array, deeper: Array | None, size: tuple[int, ...]
  ) -> tuple[Array, Array]:
    x = self.reduce(x)
    if self.attention is not None and deeper is not None:
      deeper = ops.nearest_resize(deeper, x.shape[1:3])
      shares = nnx.sigmoid(
        self.attention(jnp.concatenate([x, deeper], axis=-1))
      )
      x = x * shares[..., :1] + deeper * shares[..., 1:]
    x = ops.nearest_resize(x, size)
    return self.expand(x), x


ROWS = {
  "review_kd": row(
    "features",
    "ReviewKD, Chen 2021",
    "fuses each stage of the student with the deeper ones by attention",
    _review_kd,
    weight=5.0,
    warmup_epochs=20,
    source=MDISTILLER,
  ),
}
