"""Multi-level logit distillation (MLLD)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation.logits._prediction_correlations import (
  batch_gaps,
  class_gaps,
  predictions,
)
from kdjax.distillation.logits._soft_targets import soft_target_loss


@ops.validate
def class_correlation_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Multi-level logit distillation (MLLD): class-level alignment.

  .. math::
    \ell = \frac{1}{C} \bigl\lVert Q_S^\top Q_S - Q_T^\top Q_T \bigr\rVert_F^2,
    \quad Q = \mathrm{softmax}(z / T) \in \mathbb R^{B \times C}

  Args:
    student_logits: `[batch, classes]`.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    temperature: T > 0. May be traced. There is no T^2 factor.
    where: `[batch]`, True for the examples in the sums; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. As in the paper and the authors' code, the value grows with the
    square of the batch size; see `mlld_loss` for the weight.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]])
    >>> class_correlation_loss(logits, logits)
    Array(0., dtype=float32)

  References:
    Jin, Wang and Lin, `Multi-level logit distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023.
  """
  student, teacher, _ = predictions(
    student_logits, teacher_logits, where, temperature, stop_teacher_gradient
  )
  return jnp.sum(class_gaps(student, teacher, axis_name))


@ops.validate
def batch_correlation_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Multi-level logit distillation (MLLD): batch-level alignment.

  .. math::
    \ell = \frac{1}{B} \bigl\lVert Q_S Q_S^\top - Q_T Q_T^\top \bigr\rVert_F^2,
    \quad Q = \mathrm{softmax}(z / T) \in \mathbb R^{B \times C}

  Args:
    student_logits: `[batch, classes]`.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    temperature: T > 0. May be traced. There is no T^2 factor.
    where: `[batch]`, True for the examples in the loss; B is their number. None
      takes all.
    chunk_size: how many rows of the matrices of pairs are in memory at a time,
      in the backward pass too; a static integer. None computes all rows at
      once.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 if `where` is all False. As in the paper and the authors' code,
    the value grows with the batch size; see `mlld_loss` for the weight.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]])
    >>> batch_correlation_loss(logits, logits)
    Array(0., dtype=float32)

  References:
    Jin, Wang and Lin, `Multi-level logit distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023.
  """
  student, teacher, keep = predictions(
    student_logits, teacher_logits, where, temperature, stop_teacher_gradient
  )
  gaps = batch_gaps(student, teacher, axis_name, chunk_size)
  return ops.masked_mean(gaps, keep, axis_name=axis_name)


@ops.validate
def mlld_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  student_strong_logits: Float[Array, "batch classes"] | None = None,
  teacher_strong_logits: Float[Array, "batch classes"] | None = None,
  *,
  temperatures: ArrayLike | Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
  percentile: ArrayLike = 50.0,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Multi-level logit distillation (MLLD): alignment at three levels.

  .. math::
    \ell = \sum_T \Bigl[ \frac{1}{B} \sum_b m_b T^2
      \mathrm{KL}(q^T_b \Vert q^S_b)
      + \frac{1}{C} \sum_{c,k} n_c \, (\Delta Q^\top Q)_{ck}^2
      + \frac{1}{B} \sum_{b,i} m_b \, (\Delta Q Q^\top)_{bi}^2 \Bigr]

  summed over a pool of temperatures, where `Delta` is the student's value less
  the teacher's. The mask m keeps the examples whose confidence `max_c q^T_bc`
  does not exceed its percentile over the batch; the mask n keeps the classes
  whose mass `sum_b q^T_bc` does not exceed its percentile over the classes.
  Both use temperature 1. For a strongly augmented view of the same images, the
  first term is added without a mask.

  Args:
    student_logits: `[batch, classes]`, for the weakly augmented images.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    student_strong_logits: `[batch, classes]`, for the strongly augmented
      images; None, as is `teacher_strong_logits`, if there is one view.
    teacher_strong_logits: `[batch, classes]`, for the strongly augmented
      images; they receive no gradient.
    temperatures: the pool, each > 0; a number or `[pool]`. May be traced.
    percentile: in [0, 100]; at 100 nothing is masked. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: as in `batch_correlation_loss`.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 if `where` is all False. Published weight: 0.9, beside 0.1 times
    the cross-entropy of each view.

  Raises:
    ValueError: if the shapes differ, only one strong view is given, a static
      temperature is not above 0 or a static percentile outside [0, 100].
    TypeError: if the logits are not floating-point.

  The published code differs in two points. It multiplies both masks by losses
  that are already means, so that a mask acts as a factor of about 1/2 on every
  example. It computes the strong view's term at T = 2 and 6 from the weak view.
  The strong view's class and batch terms, which that code computes and never
  adds, are left out here too.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]])
    >>> mlld_loss(logits, logits)
    Array(0., dtype=float32)

  References:
    Jin, Wang and Lin, `Multi-level logit distillation
    <https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html>`_,
    2023.
  """
  if (student_strong_logits is None) != (teacher_strong_logits is None):
    raise ValueError(
      "mlld_loss: got one of student_strong_logits and teacher_strong_logits; "
      "expected both or neither."
    )
  ops.check_positive("temperatures", temperatures)
  ops.check_range("percentile", percentile, 0.0, 100.0)
  _, sure, keep = predictions(teacher_logits, teacher_logits, where, 1.0, True)
  # The barrier makes XLA compute the value once: two copies, rounded
  # differently, would fail the comparison with their own percentile.
  confidence = jax.lax.optimization_barrier(ops.largest(sure, -1))
  mass = jnp.sum(sure, 0)
  mass = ops.sum_over_devices(mass, axis_name)
  mass = jax.lax.optimization_barrier(mass)
  examples = _up_to_percentile(
    confidence,
    ops.gather_batch(confidence, axis_name),
    ops.gather_batch(keep, axis_name),
    percentile,
  )
  every_class = jnp.ones(mass.shape, bool)
  classes = _up_to_percentile(mass, mass, every_class, percentile)

  def divergences(student: Array, teacher: Array, temperature: Array) -> Array:
    return soft_target_loss(
      ops.zero_masked(student, where),
      ops.zero_masked(teacher, where),
      temperature=temperature,
      stop_teacher_gradient=stop_teacher_gradient,
    )

  def levels(temperature: Array) -> Array:
    """Returns the sum of all levels and views at one temperature."""
    student, teacher, _ = predictions(
      student_logits, teacher_logits, where, temperature, stop_teacher_gradient
    )
    columns = jnp.where(classes, class_gaps(student, teacher, axis_name), 0.0)
    rows = batch_gaps(student, teacher, axis_name, chunk_size)
    rows += divergences(student_logits, teacher_logits, temperature)
    rows = jnp.where(examples, rows, 0.0)
    if student_strong_logits is not None and teacher_strong_logits is not None:
      rows += divergences(
        student_strong_logits, teacher_strong_logits, temperature
      )
    return jnp.sum(columns) + ops.masked_mean(rows, keep, axis_name=axis_name)

  pool = jnp.atleast_1d(jnp.asarray(temperatures, sure.dtype))
  return jnp.sum(jax.vmap(levels)(pool))


def _up_to_percentile(
  values: Array, whole: Array, keep: Array, percentile: ArrayLike
) -> Array:
  """Returns True for the values up to a percentile of those with `keep`.

  It counts smaller values: a count has no rounding error, unlike NumPy's
  interpolated percentile.
  """
  below = jnp.sum(keep[None] & (whole[None] < values[:, None]), -1)
  percentile = ops.as_number("percentile", percentile, values.dtype)
  return 100.0 * below <= percentile * (jnp.sum(keep) - 1)
