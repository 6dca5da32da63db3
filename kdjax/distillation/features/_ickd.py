"""Inter-channel correlation (ICKD)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.distillation._feature_pairs import as_pair
from kdjax.ops import check_choice
from kdjax.ops import masked_mean
from kdjax.ops import normalize_as_torch
from kdjax.ops import sum_over_devices
from kdjax.ops import validate
from kdjax.ops import zero_masked


@validate
def ickd_loss(
  student_features: Float[Array, "batch height width channels"],
  teacher_features: Float[Array, "batch teacher_height teacher_width channels"],
  *,
  scaling: str = "imagenet",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Inter-channel correlation (ICKD): equal Gram matrices of the channels.

  .. math::
    \ell = \frac{1}{C B^2} \sum_b \lVert G(F^S_b) - G(F^T_b) \rVert_F^2,
    \qquad G(F) = F^\top F \text{ with rows of norm 1}

  where F is `[positions, channels]`.

  Args:
    student_features: the student's, embedded to the teacher's channels.
    teacher_features: the teacher's; height and width may differ.
    scaling: "imagenet" divides by C B^2 as above, "cifar" by C B.
    where: which examples count; B is their number.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if nothing counts. A dead channel's row is 0.
    Published weight: 500 for "imagenet" (batches of 256), 2.5 for "cifar".

  Raises:
    ValueError: if batch or channels differ or the scaling is unknown.
    TypeError: if the features are not floating-point.

  The authors' two codes disagree: the one for ImageNet, which torchdistill
  took over, divides by the batch size twice, so that its value shrinks as the
  batch grows. It is the default because its weight is the best known.

  Examples:
    >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)  # four channels, orthogonal
    >>> ickd_loss(maps, jnp.ones((1, 2, 2, 4)))
    Array(1., dtype=float32)

  References:
    Liu et al., `Exploring inter-channel correlation for diversity-preserved
    knowledge distillation <https://arxiv.org/abs/2202.03680>`_, 2021.
  """
  check_choice("scaling", scaling, ("imagenet", "cifar"))
  student, teacher = (
    normalize_as_torch(_gram(zero_masked(x, where)))
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  values = jnp.sum(jnp.square(student - teacher), (1, 2)) / student.shape[-1]
  if where is None:
    where = jnp.ones(values.shape, bool)
  loss = masked_mean(values, where, axis_name=axis_name)
  if scaling == "cifar":
    return loss
  count = jnp.sum(where, dtype=values.dtype)
  count = sum_over_devices(count, axis_name)
  return loss / jnp.maximum(count, 1.0)


def _gram(
  maps: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels channels"]:
  rows = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  # The rows are normalized next, so this scale is free; it avoids overflow.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), (1, 2), keepdims=True))
  rows = rows / jnp.where(largest > 0, largest, 1.0)
  return jnp.einsum("bpi,bpj->bij", rows, rows, precision="highest")
