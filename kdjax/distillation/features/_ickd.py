"""Inter-channel correlation distillation (ICKD)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
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

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: the student's maps, embedded to the teacher's channels.
    teacher_features: the teacher's maps; height and width may differ. They
      receive no gradient.
    scaling: "imagenet" divides by C B^2 as above, "cifar" by C B.
    where: `[batch]`, True for the examples in the loss; B is their number. None
      takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if `where` is all False. The row of a channel
    that is 0 everywhere is 0. Published weight: 500 for "imagenet" (batches of
    256), 2.5 for "cifar".

  Raises:
    ValueError: if the batch sizes or channels differ or the scaling is unknown.
    TypeError: if the features are not floating-point.

  The authors' two codes disagree. The code for ImageNet, which torchdistill
  copied, divides by the batch size twice, so that the value shrinks as the
  batch grows. It is the default because its weight is the best known.

  Examples:
    >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)  # four channels, orthogonal
    >>> ickd_loss(maps, jnp.ones((1, 2, 2, 4)))
    Array(1., dtype=float32)

  References:
    Liu et al., `Exploring inter-channel correlation for diversity-preserved
    knowledge distillation <https://arxiv.org/abs/2202.03680>`_, 2021.
  """
  ops.check_choice("scaling", scaling, ("imagenet", "cifar"))
  student, teacher = (
    ops.normalize_as_torch(_gram(ops.zero_masked(x, where)))
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  values = jnp.sum(jnp.square(student - teacher), (1, 2)) / student.shape[-1]
  if where is None:
    where = jnp.ones(values.shape, bool)
  loss = ops.masked_mean(values, where, axis_name=axis_name)
  if scaling == "cifar":
    return loss
  count = jnp.sum(where, dtype=values.dtype)
  count = ops.sum_over_devices(count, axis_name)
  return loss / jnp.maximum(count, 1.0)


def _gram(
  maps: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels channels"]:
  rows = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  # Dividing by the largest entry avoids overflow; the rows are normalized next.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), (1, 2), keepdims=True))
  rows = rows / jnp.where(largest > 0, largest, 1.0)
  return jnp.einsum("bpi,bpj->bij", rows, rows, precision="highest")
