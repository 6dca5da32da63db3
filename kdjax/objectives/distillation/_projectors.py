"""Students projected to the teacher's width, each method in its own way."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import affinity_loss
from kdjax.distillation import ickd_loss
from kdjax.distillation import kta_loss
from kdjax.distillation import srd_loss
from kdjax.distillation import vkd_loss
from kdjax.nets import Outputs
from kdjax.nets import _layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._stages import last_maps
from kdjax.ops._resizing import to_smaller
from kdjax.ops._validation import check_choice


def ickd(*, scaling: str = "imagenet") -> Objective:
  """Inter-channel correlation (ICKD) of the last maps.

  The :func:`kdjax.distillation.ickd_loss`, after a convolution without bias
  and batch normalization of the student's map.

  Args:
    scaling: as in the loss; "cifar" has a 1x1 convolution, "imagenet" a 3x3
      one.

  Returns:
    An objective; its published weight is 2.5 for "cifar" and 500 for
    "imagenet", where the cross-entropy gives way to KD at temperature 1.

  Raises:
    ValueError: if the scaling is unknown.

  References:
    Liu et al., `Exploring inter-channel correlation for diversity-preserved
    knowledge distillation <https://arxiv.org/abs/2202.03680>`_, 2021.
  """
  sizes = {"imagenet": 3, "cifar": 1}
  check_choice("scaling", scaling, tuple(sizes))

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(last_maps, student, teacher)
    return _layers.ConvNorm(
      ours.shape[-1],
      theirs.shape[-1],
      sizes[scaling],
      rngs=rngs,
    )

  def loss(
    embed: Any,
    student: Outputs,
    teacher: Outputs,
    mask: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = last_maps(student, teacher)
    return ickd_loss(
      embed(ours),
      theirs,
      scaling=scaling,
      where=mask,
      axis_name=axis_name,
    )

  return modular(build, loss)


def ktaad(
  *,
  adaptation_weight: ArrayLike = 50.0,
  affinity_weight: ArrayLike = 1.0,
  power: ArrayLike = 2.0,
) -> Objective:
  """Knowledge translation, adaptation and affinity distillation (KTAAD).

  The :func:`kdjax.distillation.kta_loss` of the last maps after one adapter of
  the student's (a 3x3 convolution, batch normalization, ReLU), and their
  :func:`kdjax.distillation.affinity_loss` after another (a 3x3 convolution).
  Of maps of unequal size the larger is averaged to the smaller.

  Args:
    adaptation_weight: the weight of the first.
    affinity_weight: the weight of the second.
    power: q of the first's norm.

  Returns:
    An objective; its published weight is 1, with the defaults here.

  Differs from the paper: it compresses the teacher's map by an auto-encoder
  that was trained before. Here the map is taken as the teacher gives it.

  References:
    He et al., `Knowledge adaptation for efficient semantic segmentation
    <https://arxiv.org/abs/1903.04688>`_, 2019, as in `torchdistill
    <https://github.com/yoshitomo-matsubara/torchdistill>`_.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(last_maps, student, teacher)
    options: dict[str, Any] = {
      "kernel_init": _layers.TORCH_DEFAULT,
      "rngs": rngs,
    }
    widths = ours.shape[-1], theirs.shape[-1]
    return nnx.Dict(
      adaptation=_layers.ConvNorm(*widths, 3, **options),
      affinity=_layers.convolution(*widths, 3, use_bias=True, **options),
    )

  def loss(
    adapters: Any,
    student: Outputs,
    teacher: Outputs,
    *,
    adaptation_weight: Array,
    affinity_weight: Array,
    power: Array,
  ) -> Array:
    ours, theirs = to_smaller(*last_maps(student, teacher))
    adapted = nnx.relu(adapters["adaptation"](ours))
    return adaptation_weight * kta_loss(
      adapted, theirs, power=power
    ) + affinity_weight * affinity_loss(adapters["affinity"](ours), theirs)

  return modular(
    build,
    loss,
    adaptation_weight=adaptation_weight,
    affinity_weight=affinity_weight,
    power=power,
  )


def srd(*, exponent: ArrayLike = 4.0) -> Objective:
  """Simple recipe distillation (SRD) of the pooled last features.

  The :func:`kdjax.distillation.srd_loss` of the student's, after a linear
  layer, and the teacher's, both batch-normalised without scale and bias.

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
    projector = _layers.linear(ours.shape[-1], width, use_bias=False, rngs=rngs)
    return nnx.Dict(projector=projector, **norms)

  def loss(
    parts: Any,
    student: Outputs,
    teacher: Outputs,
    mask: Array,
    *,
    exponent: Array,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = _pooled(student, teacher)
    return srd_loss(
      parts["student_norm"](parts["projector"](ours)),
      parts["teacher_norm"](theirs),
      exponent=exponent,
      where=mask,
      axis_name=axis_name,
    )

  return modular(build, loss, exponent=exponent)


def vkd() -> Objective:
  """VkD: an orthogonal projection of the pooled last features.

  The :func:`kdjax.distillation.vkd_loss` of the student's features, averaged
  over positions or tokens, after a projection without bias whose rows, or
  columns where the teacher is narrower, stay orthonormal.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy and KD at
    temperature 1 of a distillation token.

  The projection is the orthogonal factor of a trained matrix (QR). PyTorch,
  which the authors use, parametrises the same set by Householder reflections.
  They pool tokens after the network's last LayerNorm; :class:`kdjax.nets.ViT`
  returns those before it.

  References:
    Miles, Elezi and Deng, `VkD: improving knowledge distillation using
    orthogonal projections <https://arxiv.org/abs/2403.06213>`_, 2024.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_pooled, student, teacher)
    return Orthogonal(ours.shape[-1], theirs.shape[-1], rngs)

  def loss(projector: Any, student: Outputs, teacher: Outputs) -> Array:
    ours, theirs = _pooled(student, teacher)
    return vkd_loss(projector(ours), theirs)

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


def _pooled(student: Outputs, teacher: Outputs) -> tuple[Array, Array]:
  ours, theirs = last_maps(student, teacher)
  return _layers.global_mean(ours), _layers.global_mean(theirs)
