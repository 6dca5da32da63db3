"""VkD: an orthogonal projection."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._srd import pooled


def _vkd() -> Objective:
  """By `kdjax.distillation.vkd_loss`, of the pooled last features.

  The student's go through a projection without bias whose rows, or columns
  where the teacher is narrower, stay orthonormal: the orthogonal factor (QR) of
  a trained matrix. PyTorch, which the authors use, parametrizes the same set by
  Householder reflections.

  Departs from the authors' code: there tokens are pooled after the network's
  last LayerNorm; `kdjax.nets.ViT` returns those before it.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(pooled, student, teacher)
    return Orthogonal(ours.shape[-1], theirs.shape[-1], rngs)

  def loss(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    ours, theirs = pooled(student, teacher)
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


ROWS = {
  "vkd": row(
    "features",
    "VkD, Miles 2024",
    "matches embeddings through an orthogonal projection",
    _vkd,
    kd=1.0,
    temperature=1.0,
    source="vkd, defaults",
  ),
}
