"""Flow of solution procedure (FSP)."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.distillation._feature_pairs import example_mean
from kdjax.distillation.features._stage_pairs import stage_pairs
from kdjax.ops import adaptive_mean_pool

_contract = functools.partial(jnp.einsum, precision="highest")


def fsp_loss(
  student_features: Sequence[ArrayLike],
  teacher_features: Sequence[ArrayLike],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Flow of solution procedure (FSP): how two stages' channels go together.

  .. math::
    G_{ij} = \operatorname{mean}_{hw} F^1_i F^2_j, \qquad
    \ell = \operatorname{mean}_{ij} (G^S_{ij} - G^T_{ij})^2

  for the maps F^1 and F^2 of two consecutive stages.

  Args:
    student_features: two maps `[batch, height, width, channels]`; the larger
      is averaged to the size of the smaller.
    teacher_features: the teacher's two. Batch and channels equal the
      student's, height and width need not. They receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    summed over all consecutive stages from the stem on, in a stage of 30
    epochs of its own before the training on labels (RepDistiller, where the
    50 of its command line is not used).

  Raises:
    ValueError: if there are not two maps on each side, or batch or channels
      differ.
    TypeError: if the features are not floating-point.

  Published codes disagree: torchdistill pools by the maximum and takes norms,
  not squares. RepDistiller and Knowledge-Distillation-Zoo average, and differ
  from the paper (half a sum of squares) only by a constant: the default.

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
      f"fsp_loss: student_features holds {len(stages)} maps; expected 2, those "
      "of consecutive stages."
    )
  student, teacher = (_flow(*maps) for maps in zip(*stages, strict=True))
  return example_mean(jnp.square(student - teacher))


def _flow(first: Array, second: Array) -> Float[Array, "batch first second"]:
  """The Gram matrix of two stages, averaged over positions."""
  size = tuple(map(min, first.shape[1:3], second.shape[1:3]))
  first, second = (adaptive_mean_pool(x, size) for x in (first, second))
  return _contract("bhwi,bhwj->bij", first, second) / (size[0] * size[1])
