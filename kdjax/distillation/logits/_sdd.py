"""Scale-decoupled distillation (SDD): logits of image regions."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from kdjax import ops
from kdjax.distillation.logits._dkd import dkd_loss
from kdjax.distillation.logits._nkd import nkd_loss
from kdjax.distillation.logits._soft_targets import soft_target_loss

_INNER: dict[str, Callable[..., Array]] = {
  "kd": lambda student, teacher, labels, **kw: soft_target_loss(
    student, teacher, **kw
  ),
  "dkd": dkd_loss,
  "nkd": nkd_loss,
}


@ops.validate
def regional_logits(
  features: Float[Array, "batch height width channels"],
  kernel: Float[Array, "channels classes"],
  bias: Float[Array, " classes"],
  *,
  grids: Sequence[int] = (1, 2, 4),
) -> Float[Array, "batch regions classes"]:
  r"""Regional logits: the classifier applied to the cells of several grids.

  .. math:: z_r = W^\top \operatorname{mean}_{(h, w) \in r} F_{hw} + b

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    features: the feature map whose mean is the classifier's input.
    kernel: the classifier's weights W.
    bias: the classifier's bias b.
    grids: the numbers of rows and columns of each grid; the first is 1.

  Returns:
    `[batch, regions, classes]`, 1 + 4 + 16 regions by default; the first is the
    whole image.

  Raises:
    ValueError: if the numbers of channels differ or the first grid is not 1.

  As in the authors' code, every grid is pooled from a grid of 4 or finer, and
  cells overlap where a grid does not divide the map.

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
      f"grids is {grids!r}; expected 1, the whole image, as the first grid."
    )
  finest = ops.adaptive_mean_pool(features, (max(4, *grids),) * 2)
  pooled = [ops.adaptive_mean_pool(finest, (grid, grid)) for grid in grids]
  regions = jnp.concatenate(
    [jnp.reshape(x, (x.shape[0], -1, x.shape[-1])) for x in pooled], 1
  )
  logits = jnp.matmul(regions, kernel, precision="highest")
  return logits + bias[None, None]


@ops.validate
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
  r"""Scale-decoupled distillation (SDD): a logit loss on every region.

  .. math::
    \ell = \frac{1}{R} \sum_r w_r \, \ell_\mathrm{inner}(z^S_r, z^T_r, y),
    \quad w_r = \begin{cases} 2 & \text{if } [\hat y^T_r = y] \ne
      [\hat y^T_1 = y] \\ 1 & \text{otherwise} \end{cases}

  A region is complementary, with a larger weight, if the teacher is right on
  the region and wrong on the whole image, or wrong on the region and right on
  the whole image.

  Args:
    student_logits: `[batch, regions, classes]`, see `regional_logits`;
      the first region is the whole image.
    teacher_logits: `[batch, regions, classes]`; they receive no gradient.
    labels: class indices `[batch]`.
    inner: the loss of a region: "kd" (`soft_target_loss`), "dkd"
      (`dkd_loss`) or "nkd" (`nkd_loss`).
    complementary_weight: the weight of a complementary region. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.
    **hyperparameters: hyper-parameters of the inner loss.

  Returns:
    One value an example. The published weight and warm-up are those of the
    inner loss.

  Raises:
    ValueError: if shapes differ, the inner loss is unknown or a hyper-parameter
      is invalid.

  The mean over the batch is the authors' value for "kd" and "dkd". Their "nkd"
  keeps the label among the other classes; here, as in NKD, it is removed.

  Examples:
    >>> logits = jnp.zeros((2, 21, 5))
    >>> sdd_loss(logits, logits, jnp.array([0, 1]), temperature=4.0)
    Array([0., 0.], dtype=float32)

  References:
    Wei, Luo and Luo, `Scaled decoupled distillation
    <https://arxiv.org/abs/2403.13512>`_, 2024; code shicaiwei123/SDD-CVPR2024.
  """
  ops.check_choice("inner", inner, tuple(_INNER))
  given, labels = labels, ops.check_labels(labels, student_logits.shape[-1])
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
  weight = ops.as_number(
    "complementary_weight", complementary_weight, values.dtype
  )
  values = jnp.mean(jnp.where(complementary, weight, 1.0) * values, -1)
  return ops.mask_unknown_labels(values, given, student_logits.shape[-1])
