"""Methods on the last maps, adapted by a convolution: ICKD and KTAAD."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import last_maps
from kdjax.nets import layers


def ickd(*, scaling: str = "imagenet") -> Objective:
  """Inter-channel correlation (ICKD) of the last maps.

  The `kdjax.distillation.ickd_loss`, after a convolution without bias
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
  ops.check_choice("scaling", scaling, tuple(sizes))

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(last_maps, student, teacher)
    return layers.ConvNorm(
      ours.shape[-1],
      theirs.shape[-1],
      sizes[scaling],
      rngs=rngs,
    )

  def loss(
    embed: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    mask: Any,
    *,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = last_maps(student, teacher)
    return distillation.ickd_loss(
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

  The `kdjax.distillation.kta_loss` of the last maps after one adapter of
  the student's (a 3x3 convolution, batch normalization, ReLU), and their
  `kdjax.distillation.affinity_loss` after another (a 3x3 convolution).
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
      "kernel_init": layers.TORCH_DEFAULT,
      "rngs": rngs,
    }
    widths = ours.shape[-1], theirs.shape[-1]
    return nnx.Dict(
      adaptation=layers.ConvNorm(*widths, 3, **options),
      affinity=layers.convolution(*widths, 3, use_bias=True, **options),
    )

  def loss(
    adapters: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    adaptation_weight: Array,
    affinity_weight: Array,
    power: Array,
  ) -> Array:
    ours, theirs = ops.pool_to_smaller(*last_maps(student, teacher))
    adapted = nnx.relu(adapters["adaptation"](ours))
    return adaptation_weight * distillation.kta_loss(
      adapted, theirs, power=power
    ) + affinity_weight * distillation.affinity_loss(
      adapters["affinity"](ours), theirs
    )

  return modular(
    build,
    loss,
    adaptation_weight=adaptation_weight,
    affinity_weight=affinity_weight,
    power=power,
  )
