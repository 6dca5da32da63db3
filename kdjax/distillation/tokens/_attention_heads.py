"""Attention losses of transformers (TinyBERT, TextBrewer)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops
from kdjax.distillation._inputs import as_pair
from kdjax.distillation.tokens._token_masks import valid_pairs

KeyMask = Bool[Array, "batch keys"] | Integer[Array, "batch keys"]


@ops.validate
def attention_mse_loss(
  student_attention: Float[Array, "batch heads queries keys"],
  teacher_attention: Float[Array, "batch heads queries keys"],
  mask: KeyMask | None = None,
  *,
  cutoff: ArrayLike = -100.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Attention loss (TinyBERT): mean squared difference of attention scores.

  .. math::
    \ell = \frac{\sum_{bhij} m_{bi} m_{bj} (a^S_{bhij} - a^T_{bhij})^2}
                {H \sum_b (\sum_i m_{bi})^2}

  Args:
    student_attention: scores before the softmax, `[batch, heads, queries,
      keys]`.
    teacher_attention: the teacher's scores; they receive no gradient.
    mask: `[batch, keys]`, True for the valid tokens, as queries and as keys;
      None takes all. A mask needs equal numbers of queries and keys.
    cutoff: without a mask, scores at or below the cutoff are replaced by 0 on
      each side.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if no token is valid. Published weight: 1.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the scores are not floating-point.

  Published codes disagree. With a mask, the value is TextBrewer's mean. Without
  a mask, the cutoff removes the -1e4 that BERT adds to padding from the mean.
  The cutoff is -1e2 in TinyBERT and here; TextBrewer's -1e-3 also drops the
  negative scores of valid tokens.

  Examples:
    >>> scores = jnp.zeros((1, 1, 2, 2))
    >>> attention_mse_loss(scores, scores + 2.0, jnp.array([[1, 0]]))
    Array(4., dtype=float32)

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020, and
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  student, teacher = as_pair(
    student_attention, teacher_attention, stop_teacher_gradient
  )
  valid = valid_pairs(mask, where, student)
  # Zero masked scores first: -inf - -inf would be NaN, and so its gradient.
  student, teacher = (ops.zero_masked(x, valid) for x in (student, teacher))
  if mask is None:
    cutoff = ops.as_number("cutoff", cutoff, student.dtype)
    student, teacher = (
      jnp.where(x <= cutoff, 0.0, x) for x in (student, teacher)
    )
  return ops.masked_mean(
    jnp.square(student - teacher), valid, axis_name=axis_name
  )


@ops.validate
def attention_ce_loss(
  student_attention: Float[Array, "batch heads queries keys"],
  teacher_attention: Float[Array, "batch heads queries keys"],
  mask: KeyMask | None = None,
  *,
  cutoff: ArrayLike | None = None,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Attention loss (TextBrewer): cross-entropy of attention distributions.

  .. math::
    \ell = - \frac{\sum_{bhij} m_{bi} m_{bj} \, p^T_{bhij} \log p^S_{bhij}}
                  {H \sum_{bi} m_{bi}}, \qquad
    p = \operatorname{softmax}_j(a)

  Args:
    student_attention: scores before the softmax, `[batch, heads, queries,
      keys]`; -inf masks a key.
    teacher_attention: the teacher's scores; they receive no gradient.
    mask: `[batch, keys]`, True for the valid tokens, as queries and as keys;
      None takes all. A mask needs equal numbers of queries and keys.
    cutoff: without a mask, keys with a teacher score at or below the cutoff are
      left out; None keeps all keys. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar, in nats; 0 with gradient 0 if no token is valid. Published
    weight: 1.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the scores are not floating-point.

  As in TextBrewer, the softmax is over all keys, masked or not, so the scores
  of padding should include the -1e4 that BERT adds. Without a mask, TextBrewer
  has a cutoff of -1e-3, which also drops valid keys; it is not the default
  here.

  Examples:
    >>> scores = jnp.zeros((1, 1, 2, 2))
    >>> attention_ce_loss(scores, scores)
    Array(0.6931472, dtype=float32)

  References:
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  student, teacher = as_pair(
    student_attention, teacher_attention, stop_teacher_gradient
  )
  queries = jnp.any(valid_pairs(mask, where, student), -1)
  student, teacher = (ops.zero_masked(x, queries) for x in (student, teacher))
  keys = valid_pairs(mask, None, student)
  probabilities = ops.softened_softmax(teacher)
  log_probabilities = ops.log_softened_softmax(student)
  used = keys & (probabilities != 0)
  if mask is None and cutoff is not None:
    used &= ~(teacher <= ops.as_number("cutoff", cutoff, teacher.dtype))
  values = -jnp.sum(
    probabilities * jnp.where(used, log_probabilities, 0.0), -1, where=used
  )
  return ops.masked_mean(values, queries, axis_name=axis_name)
