"""Knowledge translation (KTA) and affinity distillation (KTAAD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def kta_loss(
  student_features: Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *positions channels"],
  *,
  power: ArrayLike = 2.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Knowledge translation and adaptation (KTA): L1 of normalized features.

  .. math::
    \ell = \operatorname{mean} \left| \frac{F^S}{\lVert F^S \rVert_q}
                                    - \frac{F^T}{\lVert F^T \rVert_q} \right|

  where the norm is over one example's whole features.

  Args:
    student_features: the student's features, adapted to the teacher's shape.
    teacher_features: the teacher's features, or a translator's output for them;
      they receive no gradient.
    power: q >= 1 of the norm. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 50 times the mean over the batch,
    beside `affinity_loss` (torchdistill).

  Raises:
    ValueError: if the shapes differ or a static power is not above 0.
    TypeError: if the features are not floating-point.

  As in torchdistill, the loss is the mean over the features; the paper has
  their sum.

  Examples:
    >>> kta_loss(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])).round(6)
    Array([0.4], dtype=float32)

  References:
    He et al., `Knowledge adaptation for efficient semantic segmentation
    <https://arxiv.org/abs/1903.04688>`_, 2019.
  """
  ops.check_positive("power", power)
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  power = ops.as_number("power", power, student.dtype)
  difference = _over_norm(student, power) - _over_norm(teacher, power)
  return example_mean(ops.safe_abs(difference))


@ops.validate
def affinity_loss(
  student_features: Float[Array, "batch height width channels"],
  teacher_features: Float[Array, "batch height width channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Affinity distillation (AD): equal affinities of positions, by channel.

  .. math::
    \ell = \frac{1}{HW} \sum_c
      \lVert s_c s_c^\top - t_c t_c^\top \rVert_F

  where s_c and t_c are one channel over all positions, divided by its norm; a
  channel of zeros stays 0 and gets no gradient. The HW x HW matrices are never
  in memory.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: the student's features, adapted to the teacher's shape.
    teacher_features: the teacher's features, or a translator's output for them;
      they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    beside 50 times `kta_loss` (torchdistill).

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the features are not floating-point.

  As in torchdistill, there is one affinity matrix a channel; the paper
  correlates positions over all channels.

  Examples:
    >>> maps = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
    >>> affinity_loss(maps, -2.0 * maps)
    Array([0.], dtype=float32)

  References:
    He et al., `Knowledge adaptation for efficient semantic segmentation
    <https://arxiv.org/abs/1903.04688>`_, 2019.
  """
  student, teacher = (
    ops.normalize_as_torch(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  # s s' - t t' = (u v' + v u') / 2 with u = s - t and v = s + t keeps all
  # digits where student and teacher agree.
  u, v = student - teacher, student + teacher
  norms = ops.safe_norm(u, axis=1) * ops.safe_norm(v, axis=1)
  product = jnp.sum(u * v, 1)
  norm = ops.safe_norm(jnp.stack([norms, product], -1)) / jnp.sqrt(
    jnp.asarray(2, u.dtype)
  )
  return jnp.sum(norm, -1) / student.shape[1]


def _over_norm(
  features: Float[Array, "batch *positions channels"], power: Float[Array, ""]
) -> Float[Array, "batch flat"]:
  """Flattens and divides by the q-norm; zeros stay 0, without gradient."""
  flat = features.reshape(features.shape[0], -1)
  largest = jnp.max(jnp.abs(flat), -1, keepdims=True)
  dead = largest == 0
  # Dividing by the largest entry avoids overflow; it does not change the
  # result.
  flat = flat / jax.lax.stop_gradient(jnp.where(dead, 1.0, largest))
  sizes = jnp.abs(flat)
  zero = sizes == 0
  powers = jnp.where(zero, 0.0, jnp.power(jnp.where(zero, 1.0, sizes), power))
  total = jnp.sum(powers, -1, keepdims=True)
  return flat / jnp.power(jnp.where(dead, 1.0, total), 1 / power)
