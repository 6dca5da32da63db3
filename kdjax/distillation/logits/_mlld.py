"""Multi-level logit distillation (MLLD)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.distillation.logits._prediction_correlations import batch_gaps
from kdjax.distillation.logits._prediction_correlations import class_gaps
from kdjax.distillation.logits._prediction_correlations import predictions
from kdjax.distillation.logits._soft_targets import soft_target_loss
from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import check_range
from kdjax.ops import gather_batch
from kdjax.ops import masked_mean
from kdjax.ops import sum_over_devices
from kdjax.ops import validate
from kdjax.ops import zero_masked


@validate
def class_correlation_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_logits: Float[Array, "batch classes"],
  *,
  temperature: ArrayLike = 4.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Class-level alignment of multi-level logit distillation (MLLD).

  .. math::
    \ell = \frac{1}{C} \bigl\lVert Q_S^\top Q_S - Q_T^\top Q_T \bigr\rVert_F^2,
    \quad Q = \mathrm{softmax}(z / T) \in \mathbb R^{B \times C}

  Args:
    student_logits: `[batch, classes]`.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    temperature: T > 0. May be traced. There is no T^2 factor.
    where: which examples count; the others add nothing to the sums.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar. As in the paper and the authors' code it grows with the square of
    the batch size; see `mlld_loss` for the weight.

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


@validate
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
  r"""Batch-level alignment of multi-level logit distillation (MLLD).

  .. math::
    \ell = \frac{1}{B} \bigl\lVert Q_S Q_S^\top - Q_T Q_T^\top \bigr\rVert_F^2,
    \quad Q = \mathrm{softmax}(z / T) \in \mathbb R^{B \times C}

  Args:
    student_logits: `[batch, classes]`.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    temperature: T > 0. May be traced. There is no T^2 factor.
    where: which examples count; B is their number.
    chunk_size: how many rows of the matrices of pairs are held at a time, in
      the backward pass too; a static integer. None holds them whole.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 if no example counts. As in the paper and the authors' code it
    grows with the batch size; see `mlld_loss` for the weight.

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
  return masked_mean(gaps, keep, axis_name=axis_name)


@validate
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
  r"""Multi-level logit distillation (MLLD): examples, classes and the batch.

  .. math::
    \ell = \sum_T \Bigl[ \frac{1}{B} \sum_b m_b T^2
      \mathrm{KL}(q^T_b \Vert q^S_b)
      + \frac{1}{C} \sum_{c,k} n_c \, (\Delta Q^\top Q)_{ck}^2
      + \frac{1}{B} \sum_{b,i} m_b \, (\Delta Q Q^\top)_{bi}^2 \Bigr]

  summed over a pool of temperatures, where `Delta` is student less
  teacher. The masks keep what the teacher is unsure of: the examples whose
  confidence `max_c q^T_bc`, and the classes whose mass
  `sum_b q^T_bc`, both at temperature 1, do not exceed the
  percentile over the batch or over the classes. For a strongly augmented view
  of the same images the first term is added, unmasked.

  Args:
    student_logits: `[batch, classes]`, for the weakly augmented images.
    teacher_logits: `[batch, classes]`; they receive no gradient.
    student_strong_logits: `[batch, classes]`, for the strongly augmented
      images; None, and the next too, if there is one view.
    teacher_strong_logits: `[batch, classes]`.
    temperatures: the pool, each > 0; a number or `[pool]`. May be traced.
    percentile: in [0, 100]; at 100 nothing is masked. May be traced.
    where: which examples count.
    chunk_size: as in `batch_correlation_loss`.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 if no example counts. Published weight: 0.9, beside 0.1 times
    the cross-entropy of each view.

  Raises:
    ValueError: if the shapes differ, only one strong view is given, a static
      temperature is not above 0 or a static percentile outside [0, 100].
    TypeError: if the logits are not floating-point.

  Differs from the published code, where both masks meet losses that are
  already means and so act as a factor of about 1/2 on every example; and where
  the strong view's term at T = 2 and 6 is computed from the weak view. That
  view's class and batch terms, which the code computes and never adds up, are
  left out here too.

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
  check_positive("temperatures", temperatures)
  check_range("percentile", percentile, 0.0, 100.0)
  _, sure, keep = predictions(teacher_logits, teacher_logits, where, 1.0, True)
  # Computed once: copies rounded differently would not equal themselves.
  confidence = jax.lax.optimization_barrier(jnp.max(sure, -1))
  mass = jnp.sum(sure, 0)
  mass = sum_over_devices(mass, axis_name)
  mass = jax.lax.optimization_barrier(mass)
  examples = _up_to_percentile(
    confidence,
    gather_batch(confidence, axis_name),
    gather_batch(keep, axis_name),
    percentile,
  )
  every_class = jnp.ones(mass.shape, bool)
  classes = _up_to_percentile(mass, mass, every_class, percentile)

  def divergences(student: Array, teacher: Array, temperature: Array) -> Array:
    return soft_target_loss(
      zero_masked(student, where),
      zero_masked(teacher, where),
      temperature=temperature,
      stop_teacher_gradient=stop_teacher_gradient,
    )

  def levels(temperature: Array) -> Array:
    """Sums the levels of both views at one temperature."""
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
    return jnp.sum(columns) + masked_mean(rows, keep, axis_name=axis_name)

  pool = jnp.atleast_1d(jnp.asarray(temperatures, sure.dtype))
  return jnp.sum(jax.vmap(levels)(pool))


def _up_to_percentile(
  values: Array, whole: Array, keep: Array, percentile: ArrayLike
) -> Array:
  """Returns which values do not exceed a percentile of the whole that counts.

  By counts, which unlike NumPy's interpolated bound have no rounding.
  """
  below = jnp.sum(keep[None] & (whole[None] < values[:, None]), -1)
  percentile = as_number("percentile", percentile, values.dtype)
  return 100.0 * below <= percentile * (jnp.sum(keep) - 1)
