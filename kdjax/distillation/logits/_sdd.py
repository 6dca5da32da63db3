"""Scale-decoupled distillation (SDD): logits of image regions."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax.distillation.logits._dkd import dkd_loss
from kdjax.distillation.logits._nkd import nkd_loss
from kdjax.distillation.logits._soft_targets import soft_target_loss
from kdjax.ops import adaptive_mean_pool
from kdjax.ops import as_number
from kdjax.ops import check_choice
from kdjax.ops import check_labels
from kdjax.ops import mask_unknown_labels
from kdjax.ops import validate

_INNER: dict[str, Callable[..., Array]] = {
  "kd": lambda student, teacher, labels, **kw: soft_target_loss(
    student, teacher, **kw
  ),
  "dkd": dkd_loss,
  "nkd": nkd_loss,
}


@validate
def regional_logits(
  features: Float[Array, "batch height width channels"],
  kernel: Float[Array, "channels classes"],
  bias: Float[Array, " classes"],
  *,
  grids: Sequence[int] = (1, 2, 4),
) -> Float[Array, "batch regions classes"]:
  r"""Regional logits: the classifier applied to the cells of several grids.

  .. math:: z_r = W^\top \operatorname{mean}_{(h, w) \in r} F_{hw} + b

  Args:
    features: the map that the classifier sees the mean of.
    kernel: the classifier's, W.
    bias: the classifier's, b.
    grids: how many rows and columns the map is cut into, each in turn.

  Returns:
    `[batch, regions, classes]`, 1 + 4 + 16 regions by default; the first is the
    whole image.

  Raises:
    ValueError: if the widths differ or the first grid is not 1.

  As in the authors' code, every grid is pooled from that of 4, or a finer one,
  and cells overlap where it does not divide the map.

  Examples:
    >>> maps, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 5))
    >>> regional_logits(maps, kernel, jnp.zeros(5)).shape
    (2, 21, 5)

  References:
    Wei, Luo and Luo, `Scaled decoupled distillation
    <https://arxiv.org/abs/2403.13512>`_, 2024.
  """
  if tuple(grids)[:1] != (1,):
    raise ValueError(
      f"grids is {grids!r}; expected the first to be 1, the whole image."
    )
  finest = adaptive_mean_pool(features, (max(4, *grids),) * 2)
  pooled = [adaptive_mean_pool(finest, (grid, grid)) for grid in grids]
  regions = jnp.concatenate(
    [jnp.reshape(x, (len(x), -1, x.shape[-1])) for x in pooled], 1
  )
  logits = jnp.matmul(regions, kernel, precision="highest")
  return logits + bias[None, None]


@validate
def sdd_loss(
  student_logits: Float[Array, "batch regions classes"],
  teacher_logits: Float[Array, "batch regions classes"],
  labels: Integer[Array, " batch"],
  *,
  inner: str = "kd",
  complementary_weight: ArrayLike = 2.0,
  stop_teacher_gradient: bool = True,
  **hyperparameters: ArrayLike,
) -> Float[Array, " batch"]:
  r"""Scale-decoupled distillation (SDD): logits of every region of the image.

  .. math::
    \ell = \frac{1}{R} \sum_r w_r \, \ell_\mathrm{inner}(z^S_r, z^T_r, y),
    \quad w_r = \begin{cases} 2 & \text{if } [\hat y^T_r = y] \ne
      [\hat y^T_1 = y] \\ 1 & \text{otherwise} \end{cases}

  A region on which the teacher is right and on the whole image wrong, or the
  other way about, is complementary, and weighs more.

  Args:
    student_logits: `[batch, regions, classes]`, see `regional_logits`;
      the first region is the whole image.
    teacher_logits: `[batch, regions, classes]`; they receive no gradient.
    labels: `[batch]`.
    inner: the loss of a region: "kd" (`soft_target_loss`), "dkd"
      (`dkd_loss`) or "nkd" (`nkd_loss`).
    complementary_weight: of a region that disagrees. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.
    **hyperparameters: of the inner loss.

  Returns:
    One value an example. Published weights and warm-ups are the inner loss's.

  Raises:
    ValueError: if shapes differ, the inner loss is unknown or it refuses a
      hyper-parameter.

  The mean over the batch is the authors' value for "kd" and "dkd". Their "nkd"
  never removes the label from the other classes; here it does, as in NKD.

  Examples:
    >>> logits = jnp.zeros((2, 21, 5))
    >>> sdd_loss(logits, logits, jnp.array([0, 1]), temperature=4.0)
    Array([0., 0.], dtype=float32)

  References:
    Wei, Luo and Luo, `Scaled decoupled distillation
    <https://arxiv.org/abs/2403.13512>`_, 2024; code shicaiwei123/SDD-CVPR2024.
  """
  check_choice("inner", inner, tuple(_INNER))
  given, labels = labels, check_labels(labels, student_logits.shape[-1])
  labels = jnp.broadcast_to(labels[:, None], student_logits.shape[:2])
  right = jnp.argmax(teacher_logits, -1) == labels
  values = _INNER[inner](
    student_logits,
    teacher_logits,
    labels,
    stop_teacher_gradient=stop_teacher_gradient,
    **hyperparameters,
  )
  complementary = right != right[:, :1]
  weight = as_number("complementary_weight", complementary_weight, values.dtype)
  values = jnp.mean(jnp.where(complementary, weight, 1.0) * values, -1)
  return mask_unknown_labels(values, given, student_logits.shape[-1])
