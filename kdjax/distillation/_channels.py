"""How channels correlate, and channel by channel where they fire."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.distillation._feature_pairs import as_pair
from kdjax.distillation._feature_pairs import example_mean
from kdjax.distillation._feature_pairs import unit
from kdjax.ops import masked_mean
from kdjax.ops import safe_norm
from kdjax.ops._collectives import total
from kdjax.ops._distances import absolute
from kdjax.ops._rows import counted
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


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
    unit(_gram(counted(x, where)))
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  values = jnp.sum(jnp.square(student - teacher), (1, 2)) / student.shape[-1]
  if where is None:
    where = jnp.ones(values.shape, bool)
  loss = masked_mean(values, where, axis_name=axis_name)
  if scaling == "cifar":
    return loss
  count = jnp.sum(where, dtype=values.dtype)
  count = total(count, axis_name)
  return loss / jnp.maximum(count, 1.0)


@validate
def kta_loss(
  student_features: Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *positions channels"],
  *,
  power: ArrayLike = 2.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Knowledge translation and adaptation (KTA): L1 of normalised features.

  .. math::
    \ell = \operatorname{mean} \left| \frac{F^S}{\lVert F^S \rVert_q}
                                    - \frac{F^T}{\lVert F^T \rVert_q} \right|

  with the norm of an example's whole features.

  Args:
    student_features: the student's, adapted to the teacher's shape.
    teacher_features: the teacher's, or what a translator makes of them.
    power: q >= 1 of the norm. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 50 times the mean over the batch,
    beside :func:`affinity_loss` (torchdistill).

  Raises:
    ValueError: if the shapes differ or a static power is not above 0.
    TypeError: if the features are not floating-point.

  Differs from the paper: the mean over the features, as in torchdistill, not
  their sum.

  Examples:
    >>> kta_loss(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])).round(6)
    Array([0.4], dtype=float32)

  References:
    He et al., `Knowledge adaptation for efficient semantic segmentation
    <https://arxiv.org/abs/1903.04688>`_, 2019.
  """
  check_positive("power", power)
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  power = as_number("power", power, student.dtype)
  difference = _over_norm(student, power) - _over_norm(teacher, power)
  return example_mean(absolute(difference))


@validate
def affinity_loss(
  student_features: Float[Array, "batch height width channels"],
  teacher_features: Float[Array, "batch height width channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Affinity distillation (AD): in each channel, which positions go together.

  .. math::
    \ell = \frac{1}{HW} \sum_c
      \lVert s_c s_c^\top - t_c t_c^\top \rVert_F

  where s_c and t_c are a channel over all positions, of norm 1; a dead one is
  0 and gets no gradient. The HW x HW matrices are never formed.

  Args:
    student_features: the student's, adapted to the teacher's shape.
    teacher_features: the teacher's, or what a translator makes of them.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    beside 50 times :func:`kta_loss` (torchdistill).

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the features are not floating-point.

  Differs from the paper: one affinity matrix a channel, as in torchdistill;
  the paper correlates positions over all channels.

  Examples:
    >>> maps = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
    >>> affinity_loss(maps, -2.0 * maps)
    Array([0.], dtype=float32)

  References:
    He et al., `Knowledge adaptation for efficient semantic segmentation
    <https://arxiv.org/abs/1903.04688>`_, 2019.
  """
  student, teacher = (
    unit(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    for x in as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  # s s' - t t' = (u v' + v u') / 2 with u = s - t and v = s + t: no digits
  # are lost where student and teacher agree.
  u, v = student - teacher, student + teacher
  norms = safe_norm(u, axis=1) * safe_norm(v, axis=1)
  product = jnp.sum(u * v, 1)
  norm = safe_norm(jnp.stack([norms, product], -1)) / jnp.sqrt(
    jnp.asarray(2, u.dtype)
  )
  return jnp.sum(norm, -1) / student.shape[1]


def _gram(
  maps: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels channels"]:
  rows = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  # The rows are normalised next, so this scale is free; it avoids overflow.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), (1, 2), keepdims=True))
  rows = rows / jnp.where(largest > 0, largest, 1.0)
  return jnp.einsum("bpi,bpj->bij", rows, rows, precision="highest")


def _over_norm(
  features: Float[Array, "batch *positions channels"], power: Float[Array, ""]
) -> Float[Array, "batch flat"]:
  """Flattens and divides by the q-norm; zeros stay, without gradient."""
  flat = features.reshape(features.shape[0], -1)
  largest = jnp.max(jnp.abs(flat), -1, keepdims=True)
  dead = largest == 0
  # The norm is homogeneous: this scale changes nothing and avoids overflow.
  flat = flat / jax.lax.stop_gradient(jnp.where(dead, 1.0, largest))
  sizes = jnp.abs(flat)
  zero = sizes == 0
  powers = jnp.where(zero, 0.0, jnp.power(jnp.where(zero, 1.0, sizes), power))
  total = jnp.sum(powers, -1, keepdims=True)
  return flat / jnp.power(jnp.where(dead, 1.0, total), 1 / power)
