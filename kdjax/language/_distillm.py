"""DistiLLM-2: a contrastive pair of skew divergences, and adaptive skews."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def contrastive_skew_loss(
  student_logits: Float[Array, "batch length vocab"],
  teacher_logits: Float[Array, "batch length vocab"],
  student_on_policy_logits: Float[Array, "batch on_policy_length vocab"],
  teacher_on_policy_logits: Float[Array, "batch on_policy_length vocab"],
  where: Bool[Array, "batch length"] | None = None,
  on_policy_where: Bool[Array, "batch on_policy_length"] | None = None,
  *,
  skew: ArrayLike = 0.1,
  on_policy_skew: ArrayLike | None = None,
  beta: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Contrastive skew loss (DistiLLM-2): the teacher's text and the student's.

  .. math::
    \ell = (2 - \beta) \, \overline{\mathrm{KL}}(P \Vert
             \lambda P + (1 - \lambda) Q)
         + \beta \, \overline{\mathrm{KL}}(Q' \Vert
             (1 - \lambda) P' + \lambda \, \mathrm{sg}(Q'))

  P and Q are the teacher's and the student's distributions at the positions of
  a text by the teacher, P' and Q' at those of a text by the student. Each term
  is a mean over the valid positions of its text. There is no shift inside: the
  masks mark the positions whose logits predict a token of the answer
  (`next_token_targets`).

  Args:
    student_logits: `[batch, length, vocab]`, on the teacher's text.
    teacher_logits: the teacher's logits there; they receive no gradient.
    student_on_policy_logits: `[batch, on_policy_length, vocab]`, on the
      student's text.
    teacher_on_policy_logits: the teacher's logits there; they receive no
      gradient.
    where: `[batch, length]`, True for the positions in the loss; None takes
      all.
    on_policy_where: `[batch, on_policy_length]`, the same for the student's
      text.
    skew: lambda in [0, 1]; a number, or one an example (`adaptive_skew`). May
      be traced.
    on_policy_skew: lambda of the second term; None takes `skew`.
    beta: the weight of the second term, in [0, 2]; the authors raise it from 1
      to 1.5 over the epochs. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats; a text without valid positions adds 0.

  Raises:
    ValueError: if shapes differ or a static skew is outside [0, 1].
    TypeError: if the logits are not floating-point.

  As in the published code, the student inside the mixture of the second term
  receives no gradient; `kdjax.distillation.skew_reverse_kl_loss` lets it pass,
  as DistiLLM does.

  Examples:
    >>> logits = jnp.array([[[0.0, 1.0, 2.0]]])
    >>> contrastive_skew_loss(logits, logits, logits, logits)
    Array([0.], dtype=float32)

  References:
    Ko et al., `DistiLLM-2: a contrastive approach boosts the distillation of
    LLMs <https://arxiv.org/abs/2503.07067>`_, 2025.
  """
  if stop_teacher_gradient:
    teacher_logits, teacher_on_policy_logits = jax.lax.stop_gradient(
      (teacher_logits, teacher_on_policy_logits)
    )
  dtype = functools.reduce(
    jnp.promote_types,
    map(ops.compute_dtype, (student_logits, teacher_logits)),
  )
  if on_policy_skew is None:
    on_policy_skew = skew
  batch = student_logits.shape[0]
  share = jnp.broadcast_to(
    ops.as_fraction("skew", skew, dtype, shape=(batch,)), batch
  )
  on_policy_share = jnp.broadcast_to(
    ops.as_fraction("on_policy_skew", on_policy_skew, dtype, shape=(batch,)),
    batch,
  )
  beta = ops.as_number("beta", beta, dtype)
  student, teacher = (
    ops.zero_masked(x.astype(dtype), where)
    for x in (student_logits, teacher_logits)
  )
  forward = jax.vmap(lambda p, q, s: ops.skew_divergence(p, q, s, 1.0))(
    teacher, student, share
  )
  student, teacher = (
    ops.zero_masked(x.astype(dtype), on_policy_where)
    for x in (student_on_policy_logits, teacher_on_policy_logits)
  )
  reverse = jax.vmap(_detached_skew_reverse)(student, teacher, on_policy_share)
  return (2 - beta) * _mean(forward, where) + beta * _mean(
    reverse, on_policy_where
  )


@ops.validate
def likelihood_gap(
  student_log_probs: Float[Array, "batch length"],
  teacher_log_probs: Float[Array, "batch length"],
  where: Bool[Array, "batch length"] | None = None,
) -> Float[Array, " batch"]:
  r"""Likelihood gap (DistiLLM-2): of a text under the teacher and the student.

  .. math::
    g = e^{\overline{\log p_T}} - e^{\overline{\log p_S}}

  with means over the valid tokens of a text.

  Args:
    student_log_probs: `[batch, length]`, of the tokens of the text.
    teacher_log_probs: `[batch, length]`.
    where: `[batch, length]`, True for the valid tokens; None takes all.

  Returns:
    One value an example, in [-1, 1], without gradient.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the log-probabilities are not floating-point.

  Examples:
    >>> half = jnp.log(jnp.array([[0.5]]))
    >>> likelihood_gap(2 * half, half)
    Array([0.25], dtype=float32)

  References:
    Ko et al., `DistiLLM-2: a contrastive approach boosts the distillation of
    LLMs <https://arxiv.org/abs/2503.07067>`_, 2025, section 3.2.
  """
  teacher, student = (
    jnp.exp(
      _mean(ops.zero_masked(x.astype(ops.compute_dtype(x)), where), where)
    )
    for x in (teacher_log_probs, student_log_probs)
  )
  return jax.lax.stop_gradient(teacher - student)


@ops.validate
def adaptive_skew(
  gap: Float[Array, " batch"],
  reference_gap: ArrayLike,
  *,
  skew: ArrayLike = 0.1,
) -> Float[Array, " batch"]:
  r"""Adaptive skew (DistiLLM-2): smaller for texts with a small gap.

  .. math::
    \lambda_i = \mathrm{clip}\left(1 - (1 - \lambda_0)
      \frac{\bar g}{g_i + 10^{-5}}, \; 0.01, \; \lambda_0 \right)

  Args:
    gap: g `[batch]`, the `likelihood_gap` of each text: on the teacher's texts
      as it is, on the student's texts with the opposite sign.
    reference_gap: the mean gap of earlier batches; the authors take those of
      the first logged ones.
    skew: the largest skew lambda_0. May be traced.

  Returns:
    One skew an example, without gradient, for `contrastive_skew_loss`.

  Raises:
    ValueError: if a static skew is outside [0, 1].
    TypeError: if the gap is not floating-point.

  Examples:
    >>> adaptive_skew(jnp.array([0.19]), 0.2).round(2)
    Array([0.05], dtype=float32)

  References:
    Ko et al., `DistiLLM-2: a contrastive approach boosts the distillation of
    LLMs <https://arxiv.org/abs/2503.07067>`_, 2025, section 3.2.
  """
  gap = gap.astype(ops.compute_dtype(gap))
  largest = ops.as_fraction("skew", skew, gap.dtype)
  reference = ops.as_number("reference_gap", reference_gap, gap.dtype)
  adapted = 1 - (1 - largest) * reference / (gap + 1e-5)
  return jax.lax.stop_gradient(jnp.minimum(jnp.maximum(adapted, 0.01), largest))


def _detached_skew_reverse(
  student: Array, teacher: Array, skew: Array
) -> Array:
  """KL(Q || M), M = (1 - skew) P + skew Q, where M receives no gradient by Q.

  The gradient by the student's logits is that of the sum of Q log Q / M with M
  fixed, which is Q (log Q / M) less its mean.
  """
  value = ops.skew_divergence(student, teacher, skew, 1.0)
  log_q, log_p = (ops.log_softened_softmax(x) for x in (student, teacher))
  fixed = jax.lax.stop_gradient(log_q)
  q = jnp.exp(fixed)
  used = q != 0
  mixture = jnp.logaddexp(_log(1 - skew) + log_p, _log(skew) + fixed)
  slope = jax.lax.stop_gradient(
    jnp.where(used, q * (jnp.where(used, fixed, 0.0) - mixture), 0.0)
  )
  by_student = jnp.sum(slope * jnp.where(used, log_q, 0.0), -1)
  # The teacher's part is that of the value itself.
  by_teacher = ops.skew_divergence(
    jax.lax.stop_gradient(student), teacher, skew, 1.0
  )
  return ops.with_gradient_of(value, by_student + by_teacher)


def _log(share: Array) -> Array:
  """Returns log(share), -inf with gradient 0 for 0."""
  positive = share > 0
  return jnp.where(positive, jnp.log(jnp.where(positive, share, 1.0)), -jnp.inf)


def _mean(values: Array, where: Array | None) -> Array:
  """Returns the mean over the valid positions of each text."""
  if where is None:
    return jnp.mean(values, -1)
  count = jnp.maximum(jnp.sum(where, -1), 1).astype(values.dtype)
  return jnp.sum(jnp.where(where, values, 0.0), -1) / count
