"""Consistency with an averaged teacher or another view, and its schedule."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.adaptation._self_training import is_confident
from kdjax.ops import log_softened_softmax
from kdjax.ops import softened_softmax
from kdjax.ops._collectives import total
from kdjax.ops._rows import masked_rows
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_range
from kdjax.ops._validation import validate

Tree = TypeVar("Tree")


@validate
def consistency_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  threshold: ArrayLike = 0.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Consistency of the mean teacher, the pi-model and self-ensembling.

  .. math::
    \ell_i = \mathbb 1[\max_c q_{ic} \ge \tau] \sum_c (p_{ic} - q_{ic})^2

  Args:
    student_logits: `[*batch, classes]`, of p.
    teacher_logits: `[*batch, classes]`, of q: from the averaged teacher on
      another view (mean teacher, self-ensembling) or from the student itself
      on another view (pi-model).
    threshold: tau in [0, 1] on the teacher's confidence, a scalar or one per
      row. May be traced. Self-ensembling: 0.968 (French), 0.95 (Dassl), 0.8
      (TLlib).
    stop_teacher_gradient: False lets both views learn.

  Returns:
    One value an example: the sum over classes (TLlib, Dassl), not their mean
    (the mean teacher's authors, so that weights carry over times the number
    of classes). Unsure examples are 0 and count in the mean over the batch.
    Published weights: 3 (self-ensembling in TLlib), 1 with a ramp (mean
    teacher in Dassl); TLlib's semi-supervised scripts take 0.1 times the sum,
    not the mean, over the batch.

  Raises:
    ValueError: if the shapes differ or a static threshold is outside [0, 1].
    TypeError: if the logits are not floating-point.

  Examples:
    >>> a, b = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> consistency_loss(a, b)
    Array([2.], dtype=float32)

  References:
    Tarvainen and Valpola, `Mean teachers are better role models
    <https://arxiv.org/abs/1703.01780>`_, 2017; Laine and Aila, `Temporal
    ensembling <https://arxiv.org/abs/1610.02242>`_, 2017 (the pi-model);
    French et al., `Self-ensembling for visual domain adaptation
    <https://arxiv.org/abs/1706.05208>`_, 2018.
  """
  if stop_teacher_gradient:
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
  confident = is_confident(jax.lax.stop_gradient(teacher_logits), threshold)
  gap = softened_softmax(student_logits) - softened_softmax(teacher_logits)
  return jnp.where(confident, jnp.sum(jnp.square(gap), -1), 0.0)


@validate
def self_ensembling_balance_loss(
  target_logits: Float[Array, "batch classes"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Class balance of self-ensembling: the mean prediction is uniform.

  .. math::
    \ell = -\operatorname*{mean}_c \Bigl[\tfrac1K \log \bar p_c
      + \bigl(1 - \tfrac1K\bigr) \log(1 - \bar p_c)\Bigr], \qquad
    \bar p = \operatorname*{mean}_i p_i

  a binary cross-entropy for each class; not MCD's
  :func:`class_balance_loss`.

  Args:
    target_logits: `[batch, classes]`, the student's; a class at -inf counts as
      one that is never predicted.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, each logarithm at least -100 as in PyTorch; 0 with gradient 0 if
    nothing counts. Published weight: 0.005 times the number of classes
    (French), 0.01 (TLlib), each times the share of confident examples.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> self_ensembling_balance_loss(jnp.zeros((3, 2)))
    Array(0.6931472, dtype=float32)

  References:
    French et al., `Self-ensembling for visual domain adaptation
    <https://arxiv.org/abs/1706.05208>`_, 2018.
  """
  logits, mask = masked_rows(target_logits, where)
  log_p = log_softened_softmax(logits)
  excluded = log_p == -jnp.inf
  log_p = jnp.where(excluded, 0.0, log_p)
  p = jnp.where(excluded, 0.0, jnp.exp(log_p))
  # 1 - p without cancellation where the model is sure.
  rest = jnp.where(excluded, 1.0, -jnp.expm1(log_p))
  sums, rests, count = total(
    (
      jnp.sum(mask[:, None] * p, 0),
      jnp.sum(mask[:, None] * rest, 0),
      jnp.sum(mask),
    ),
    axis_name,
  )
  count = jnp.maximum(count, 1)
  share = 1 / logits.shape[-1]
  value = -jnp.mean(
    share * _bounded_log(sums / count)
    + (1 - share) * _bounded_log(rests / count)
  )
  return jnp.where(jnp.sum(sums) > 0, value, 0.0)


def sigmoid_ramp_up(step: ArrayLike, *, length: ArrayLike) -> Float[Array, ""]:
  r"""Ramp-up of the consistency's weight, from 0.0067 to 1.

  .. math:: w(t) = \exp\bigl(-5 (1 - \min(t / T, 1))^2\bigr)

  Args:
    step: t, steps or epochs so far. May be traced.
    length: T >= 0, when the weight reaches 1; 0 for no ramp. May be traced.

  Returns:
    A scalar, in (0, 1]. Published lengths: 80 epochs (Laine and Aila), 5
    (Dassl), 10 (TLlib).

  Raises:
    ValueError: if a static length is negative.

  Examples:
    >>> print(f"{sigmoid_ramp_up(0, length=5):.4f}")
    0.0067
    >>> print(f"{sigmoid_ramp_up(9, length=5):.4f}")
    1.0000

  References:
    Laine and Aila, `Temporal ensembling
    <https://arxiv.org/abs/1610.02242>`_, 2017.
  """
  return jnp.exp(-5.0 * jnp.square(1.0 - linear_ramp_up(step, length=length)))


def linear_ramp_up(step: ArrayLike, *, length: ArrayLike) -> Float[Array, ""]:
  r"""Linear ramp-up of a weight (MixMatch).

  .. math:: w(t) = \min(\max(t / T, 0), 1)

  Args:
    step: t, steps or epochs so far. May be traced.
    length: T >= 0; 0 for no ramp. May be traced.

  Returns:
    A scalar in [0, 1]. Published length: 16,000 steps (MixMatch), 20,000
    (Dassl).

  Raises:
    ValueError: if a static length is negative.

  Examples:
    >>> print(linear_ramp_up(1, length=4), linear_ramp_up(9, length=4))
    0.25 1.0

  References:
    Berthelot et al., `MixMatch <https://arxiv.org/abs/1905.02249>`_, 2019.
  """
  check_range("length", length, 0.0, float("inf"))
  step, length = (jnp.asarray(x, float) for x in (step, length))
  whole = jnp.where(length > 0, length, 1.0)
  return jnp.where(length > 0, jnp.clip(step / whole, 0.0, 1.0), 1.0)


def mean_teacher_update(
  teacher: Tree,
  student: Tree,
  *,
  decay: ArrayLike = 0.999,
  step: ArrayLike | None = None,
) -> Tree:
  r"""Mean teacher: the exponential moving average of the student.

  .. math::
    \theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta, \qquad
    \alpha = \min\bigl(\alpha_0,\; 1 - 1 / (t + 1)\bigr)

  Args:
    teacher: a pytree of arrays, theta'. Keep it in float32 or wider: in
      bfloat16 the average would stand still.
    student: a pytree of the same structure. Parameters alone: statistics of
      batch normalization are the student's (TLlib copies them) or the
      teacher's own.
    decay: alpha_0 in [0, 1]. May be traced.
    step: t, the updates before this one; the first then copies the student.
      None for no correction. May be traced.

  Returns:
    The new teacher, in its own dtypes. Published decay: 0.999 (Dassl, TLlib).

  Raises:
    ValueError: if the structures differ or a static decay is outside [0, 1].

  :func:`kdjax.training.parameter_ema` keeps one inside the optimizer.

  Examples:
    >>> print(mean_teacher_update(jnp.ones(()), jnp.zeros(()), decay=0.75))
    0.75
    >>> print(mean_teacher_update(jnp.ones(()), jnp.zeros(()), step=0))
    0.0

  References:
    Tarvainen and Valpola, `Mean teachers are better role models
    <https://arxiv.org/abs/1703.01780>`_, 2017.
  """
  check_range("decay", decay, 0.0, 1.0)
  alpha = as_number("decay", decay, float)
  if step is not None:
    alpha = jnp.minimum(alpha, 1 - 1 / (jnp.asarray(step, float) + 1))

  def average(old: Array, new: Array) -> Array:
    old, new = jnp.asarray(old), jnp.asarray(new)
    if not jnp.issubdtype(old.dtype, jnp.inexact):
      return new
    wide = jnp.promote_types(compute_dtype(old), compute_dtype(new))
    a = alpha.astype(wide)
    mixed = a * old.astype(wide) + (1 - a) * new.astype(wide)
    return mixed.astype(old.dtype)

  return jax.tree.map(average, teacher, student)


def _bounded_log(x: Float[Array, " classes"]) -> Float[Array, " classes"]:
  """Returns the logarithm, at least -100, where its gradient is 0."""
  floor = jnp.exp(jnp.asarray(-100.0, x.dtype))
  low = x <= jnp.maximum(floor, jnp.finfo(x.dtype).tiny)
  return jnp.where(low, -100.0, jnp.log(jnp.where(low, 1.0, x)))
