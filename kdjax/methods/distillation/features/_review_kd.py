"""Knowledge review: each stage of the student with all that are deeper."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import as_map, field_of, select_stages
from kdjax.nets import layers

# PyTorch's kaiming_uniform with a = 1.
_UNIFORM = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


def review_kd(
  *,
  student_preactivations: bool = False,
  max_width: int = 512,
) -> Objective:
  """Knowledge review (ReviewKD): fused stages against the teacher's.

  From the deepest on, attention (ABF) fuses each of the student's stages with
  the fusion of the deeper ones. The result is brought to the teacher's shape
  and compared by `kdjax.distillation.hierarchical_context_loss`; the losses are
  summed.
  The stages are those without the stem, and the embeddings as maps of one
  position. The teacher's are taken before their activation.

  Args:
    student_preactivations: whether the student's are, too (the authors' choice
      for some detectors; not for CIFAR-100).
    max_width: the fused maps have the width of the student's embedding or this
      one, whichever is less.

  Returns:
    An objective; its published weight is 5 for most CIFAR-100 pairs, see the
    loss, after a linear warm-up of 20 epochs.

  Raises:
    ValueError: from `init`, if the teacher returns no pre-activations or one
      of the two no embedding.

  References:
    Chen et al., `Distilling knowledge via knowledge review
    <https://arxiv.org/abs/2104.09044>`_, 2021, and its `code
    <https://github.com/dvlab-research/ReviewKD>`_.
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
