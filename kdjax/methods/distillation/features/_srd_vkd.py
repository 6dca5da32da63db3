"""Methods on projected embeddings: SRD and VkD."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import last_maps
from kdjax.nets import layers


def srd(*, exponent: ArrayLike = 4.0) -> Objective:
  """Simple recipe distillation (SRD) of the pooled last features.

  The `kdjax.distillation.srd_loss` of the student's, after a linear
  layer, and the teacher's, both batch-normalized without scale and bias.

  Args:
    exponent: of the differences.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy and KD at
    temperature 1.

  References:
    Miles and Mikolajczyk, `Understanding the role of the projector in
    knowledge distillation <https://arxiv.org/abs/2303.11098>`_, 2024.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_pooled, student, teacher)
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
    mask: Any,
    *,
    exponent: Array,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = _pooled(student, teacher)
    return distillation.srd_loss(
      parts["student_norm"](parts["projector"](ours)),
      parts["teacher_norm"](theirs),
      exponent=exponent,
      where=mask,
      axis_name=axis_name,
    )

  return modular(build, loss, exponent=exponent)


def vkd() -> Objective:
  """VkD: an orthogonal projection of the pooled last features.

  The `kdjax.distillation.vkd_loss` of the student's features, averaged
  over positions or tokens, after a projection without bias whose rows, or
  columns where the teacher is narrower, stay orthonormal.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy and KD at
    temperature 1 of a distillation token.

  The projection is the orthogonal factor of a trained matrix (QR). PyTorch,
  which the authors use, parametrizes the same set by Householder reflections.
  They pool tokens after the network's last LayerNorm; `kdjax.nets.ViT`
  returns those before it.

  References:
    Miles, Elezi and Deng, `VkD: improving knowledge distillation using
    orthogonal projections <https://arxiv.org/abs/2403.06213>`_, 2024.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_pooled, student, teacher)
    return Orthogonal(ours.shape[-1], theirs.shape[-1], rngs)

  def loss(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    ours, theirs = _pooled(student, teacher)
    return distillation.vkd_loss(projector(ours), theirs)

  return modular(build, loss)


class Orthogonal(nnx.Module):
  """A linear map without bias, orthonormal on its narrower side."""

  def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
    tall = max(inputs, outputs), min(inputs, outputs)
    self.widens = inputs < outputs
    self.kernel = nnx.Param(jax.random.normal(rngs.params(), tall))

  def matrix(self) -> Array:
    """The map, `[inputs, outputs]`."""
    factor, triangle = jnp.linalg.qr(self.kernel[...])
    # The factor is unique once the triangle's diagonal is positive.
    factor = factor * jnp.sign(jnp.diagonal(triangle))[None]
    return factor.T if self.widens else factor

  def __call__(self, x: Array) -> Array:
    return jnp.matmul(x, self.matrix(), precision=jax.lax.Precision.HIGHEST)


def _pooled(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[Array, Array]:
  ours, theirs = last_maps(student, teacher)
  return layers.global_mean(ours), layers.global_mean(theirs)
