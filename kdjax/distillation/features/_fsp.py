"""Flow of solution procedure (FSP)."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import example_mean
from kdjax.distillation.features._stage_pairs import stage_pairs

_contract = functools.partial(jnp.einsum, precision="highest")


def fsp_loss(
  student_features: Sequence[ArrayLike],
  teacher_features: Sequence[ArrayLike],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Flow of solution procedure (FSP): equal Gram matrices between stages.

  .. math::
    G_{ij} = \operatorname{mean}_{hw} F^1_i F^2_j, \qquad
    \ell = \operatorname{mean}_{ij} (G^S_{ij} - G^T_{ij})^2

  for the maps F^1 and F^2 of two consecutive stages.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: two maps `[batch, height, width, channels]`; the larger is
      average-pooled to the size of the smaller.
    teacher_features: the teacher's two maps, with the student's batch and
      channels; height and width may differ. They receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    summed over all pairs of consecutive stages from the stem on, in 30 epochs
    without labels before the training with labels (RepDistiller, which does not
    use the 50 of its command line).

  Raises:
    ValueError: if there are not two maps on each side, or batch or channels
      differ.
    TypeError: if the features are not floating-point.

  Published codes disagree. torchdistill pools by the maximum and takes norms,
  not squares. RepDistiller, Knowledge-Distillation-Zoo and this code average;
  the paper's half sum of squares differs only by a constant.

  Examples:
    >>> maps = [jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 3))]
    >>> fsp_loss(maps, [maps[0], 3 * maps[1]])
    Array([4.], dtype=float32)

  References:
    Yim et al., `A gift from knowledge distillation
    <https://doi.org/10.1109/CVPR.2017.754>`_, 2017.
  """
  stages = stage_pairs(
    "fsp_loss", student_features, teacher_features, stop_teacher_gradient
  )
  if len(stages) != 2:
    raise ValueError(
      f"fsp_loss: student_features holds {len(stages)} maps; expected 2, the "
      "maps of two consecutive stages."
    )
  student, teacher = (_gram_matrix(*maps) for maps in zip(*stages, strict=True))
  return example_mean(jnp.square(student - teacher))


def _gram_matrix(
  first: Array, second: Array
) -> Float[Array, "batch first second"]:
  """Returns the products of two stages' channels, averaged over positions."""
  size = tuple(map(min, first.shape[1:3], second.shape[1:3]))
  first, second = (ops.adaptive_mean_pool(x, size) for x in (first, second))
  return _contract("bhwi,bhwj->bij", first, second) / (size[0] * size[1])
