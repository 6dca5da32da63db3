"""Attention of transformers, and the relations that MiniLM makes of it."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax.distillation._feature_pairs import as_pair
from kdjax.distillation._tokens import TokenMask
from kdjax.distillation._tokens import valid_tokens
from kdjax.ops import kl_divergence
from kdjax.ops import log_softened_softmax
from kdjax.ops import masked_mean
from kdjax.ops import softened_softmax
from kdjax.ops._rows import counted
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import validate

KeyMask = Bool[Array, "batch keys"] | Integer[Array, "batch keys"]


@validate
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
  r"""Attention loss: mean squared difference of the attention scores.

  .. math::
    \ell = \frac{\sum_{bhij} m_{bi} m_{bj} (a^S_{bhij} - a^T_{bhij})^2}
                {H \sum_b (\sum_i m_{bi})^2}

  Args:
    student_attention: scores before the softmax, `[batch, heads, queries,
      keys]`.
    teacher_attention: the teacher's; they receive no gradient.
    mask: which tokens are valid, as queries and as keys; it needs as many of
      the ones as of the others.
    cutoff: without a mask, scores at or below count as 0 on each side.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if no token is valid. Published weight: 1.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the scores are not floating-point.

  Published codes disagree. With a mask, this is TextBrewer's mean. Without
  one, the cutoff is what keeps the -1e4 that BERT adds to padding out of the
  mean: it is -1e2 in TinyBERT and here; TextBrewer's -1e-3 drops every
  negative score of valid tokens too.

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
  valid = _valid_pairs(mask, where, student)
  # -inf - -inf at a masked key is NaN, and so is its gradient
  student, teacher = (counted(x, valid) for x in (student, teacher))
  if mask is None:
    cutoff = as_number("cutoff", cutoff, student.dtype)
    student, teacher = (
      jnp.where(x <= cutoff, 0.0, x) for x in (student, teacher)
    )
  return masked_mean(jnp.square(student - teacher), valid, axis_name=axis_name)


@validate
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
  r"""Attention loss: cross-entropy of the attention distributions.

  .. math::
    \ell = - \frac{\sum_{bhij} m_{bi} m_{bj} \, p^T_{bhij} \log p^S_{bhij}}
                  {H \sum_{bi} m_{bi}}, \qquad
    p = \operatorname{softmax}_j(a)

  Args:
    student_attention: scores before the softmax, `[batch, heads, queries,
      keys]`; -inf masks a key.
    teacher_attention: the teacher's; they receive no gradient.
    mask: which tokens are valid, as queries and as keys; it needs as many of
      the ones as of the others.
    cutoff: without a mask, keys whose teacher score is at or below it are
      left out; none without it. May be traced.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar, in nats; 0 with gradient 0 if no token is valid. Published
    weight: 1.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the scores are not floating-point.

  As in TextBrewer, the softmax is over all keys, masked or not, so that the
  scores should carry the padding's -1e4 already. Without a mask TextBrewer
  has a cutoff of -1e-3, which drops valid keys too: it is not the default.

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
  queries = jnp.any(_valid_pairs(mask, where, student), -1)
  student, teacher = (counted(x, queries) for x in (student, teacher))
  keys = _valid_pairs(mask, None, student)
  probabilities = softened_softmax(teacher)
  log_probabilities = log_softened_softmax(student)
  used = keys & (probabilities != 0)
  if mask is None and cutoff is not None:
    used &= ~(teacher <= as_number("cutoff", cutoff, teacher.dtype))
  values = -jnp.sum(
    probabilities * jnp.where(used, log_probabilities, 0.0), -1, where=used
  )
  return masked_mean(values, queries, axis_name=axis_name)


@validate
def minilm_loss(
  student_attention: Float[Array, "batch heads tokens tokens"],
  teacher_attention: Float[Array, "batch heads tokens tokens"],
  mask: TokenMask | None = None,
  *,
  student_values: Float[Array, "batch heads tokens student_width"]
  | None = None,
  teacher_values: Float[Array, "batch heads tokens teacher_width"]
  | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""MiniLM: the last layer's attention, and how its values relate.

  .. math::
    \ell = \frac{1}{H |x|} \sum_{hi} \left[
      \mathrm{KL}(A^T_{hi} \Vert A^S_{hi})
      + \mathrm{KL}(R^T_{hi} \Vert R^S_{hi}) \right], \qquad
    R = \operatorname{softmax} \left( \frac{V V^\top}{\sqrt{d}} \right)

  over the valid tokens i and keys, |x| of them. Student and teacher need as
  many heads, but not as wide ones.

  Args:
    student_attention: scores before the softmax, `[batch, heads, tokens,
      tokens]`. Where a network gives probabilities, their logarithms serve.
    teacher_attention: the teacher's; they receive no gradient.
    mask: which tokens are valid; all without it.
    student_values: the value vectors V, `[batch, heads, tokens, width]`.
    teacher_values: the teacher's. Without values the loss is its first term,
      the attention transfer.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats; 0 if it has no valid token.

  Raises:
    ValueError: if shapes differ or only one side has values.
    TypeError: if an argument is not floating-point.

  The authors published no code for it; this is the paper's formula.

  Examples:
    >>> scores, values = jnp.zeros((1, 2, 3, 3)), jnp.ones((1, 2, 3, 4))
    >>> minilm_loss(
    ...   scores, scores, student_values=values, teacher_values=values
    ... )
    Array([0.], dtype=float32)

  References:
    Wang et al., `MiniLM: deep self-attention distillation for task-agnostic
    compression of pre-trained transformers
    <https://arxiv.org/abs/2002.10957>`_, 2020.
  """
  if (student_values is None) != (teacher_values is None):
    raise ValueError(
      "minilm_loss: only one of student_values and teacher_values is given; "
      "expected both or none."
    )
  student, teacher = as_pair(
    student_attention, teacher_attention, stop_teacher_gradient
  )
  loss = _relation_loss(student, teacher, mask)
  if student_values is None or teacher_values is None:
    return loss
  student, teacher = as_pair(
    student_values, teacher_values, stop_teacher_gradient
  )
  return loss + _relation_loss(
    _relation(student, mask), _relation(teacher, mask), mask
  )


@validate
def minilm_v2_loss(
  student_hidden: ArrayLike | Sequence[ArrayLike],
  teacher_hidden: ArrayLike | Sequence[ArrayLike],
  mask: TokenMask | None = None,
  *,
  relation_heads: int = 12,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""MiniLMv2: relations of queries, keys and values in any number of heads.

  .. math::
    \ell = \sum_{X \in \{Q, K, V\}} \frac{1}{3 A_r |x|} \sum_{ai}
      \mathrm{KL}(R^T_{X,ai} \Vert R^S_{X,ai}), \qquad
    R_X = \operatorname{softmax}
      \left( \frac{X_a X_a^\top}{\sqrt{d_r}} \right)

  The vectors of all heads, concatenated, are split anew into A_r relation
  heads of width d_r, so that student and teacher may differ in both heads and
  widths.

  Args:
    student_hidden: the queries, keys and values of one layer, heads
      concatenated, `[batch, tokens, width]` each; or one such array.
    teacher_hidden: the teacher's; they receive no gradient.
    mask: which tokens are valid; all without it.
    relation_heads: A_r, which divides all widths: 48 for base-size and 64 for
      large teachers in the paper.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, the mean over the relations; 0 if the
    example has no valid token.

  Raises:
    ValueError: if shapes differ, there are not as many relations on both
      sides, or a width is no multiple of `relation_heads`.
    TypeError: if the vectors are not floating-point.

  The authors published no code for it; bloomberg's minilmv2.bb computes the
  same. The three relations weigh 1/3 each, as there.

  Examples:
    >>> vectors = jnp.ones((1, 3, 24))
    >>> minilm_v2_loss([vectors] * 3, [2.0 * vectors] * 3)
    Array([0.], dtype=float32)

  References:
    Wang et al., `MiniLMv2: multi-head self-attention relation distillation
    for compressing pretrained transformers
    <https://arxiv.org/abs/2012.15828>`_, 2021.
  """
  check_integer("relation_heads", relation_heads, 1)
  students, teachers = _listed(student_hidden), _listed(teacher_hidden)
  if len(students) != len(teachers) or not students:
    raise ValueError(
      f"minilm_v2_loss: student_hidden has {len(students)} relations and "
      f"teacher_hidden {len(teachers)}; expected as many, at least 1."
    )
  losses = [
    _one_relation(
      student,
      teacher,
      mask,
      relation_heads=relation_heads,
      stop_teacher_gradient=stop_teacher_gradient,
    )
    for student, teacher in zip(students, teachers, strict=True)
  ]
  return sum(losses[1:], losses[0]) / len(losses)


@validate
def _one_relation(
  student_hidden: Float[Array, "batch tokens student_width"],
  teacher_hidden: Float[Array, "batch tokens teacher_width"],
  mask: TokenMask | None,
  *,
  relation_heads: int,
  stop_teacher_gradient: bool,
) -> Float[Array, " batch"]:
  student, teacher = as_pair(
    student_hidden, teacher_hidden, stop_teacher_gradient
  )
  return _relation_loss(
    _relation(_split("student_hidden", student, relation_heads), mask),
    _relation(_split("teacher_hidden", teacher, relation_heads), mask),
    mask,
  )


def _split(
  name: str, hidden: Float[Array, "batch tokens width"], heads: int
) -> Float[Array, "batch heads tokens head_width"]:
  """Splits concatenated vectors into heads."""
  batch, tokens, width = hidden.shape
  if width % heads:
    raise ValueError(
      f"minilm_v2_loss: {name} has width {width}; expected a multiple of "
      f"relation_heads = {heads}."
    )
  return jnp.swapaxes(hidden.reshape(batch, tokens, heads, -1), 1, 2)


def _listed(hidden: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
  arrays = hidden if isinstance(hidden, Sequence) else [hidden]
  return [jnp.asarray(x) for x in arrays]


def _relation(
  vectors: Float[Array, "batch heads tokens width"], mask: Array | None
) -> Float[Array, "batch heads tokens tokens"]:
  """Returns the scaled dot products of a layer's vectors with themselves."""
  valid = valid_tokens(mask, None, vectors[:, 0, :, 0])[:, None]
  vectors = counted(vectors, jnp.broadcast_to(valid, vectors.shape[:-1]))
  products = jnp.einsum(
    "bhid,bhjd->bhij", vectors, vectors, precision="highest"
  )
  return products / jnp.sqrt(jnp.asarray(vectors.shape[-1], products.dtype))


def _relation_loss(
  student: Float[Array, "batch heads tokens tokens"],
  teacher: Float[Array, "batch heads tokens tokens"],
  mask: Array | None,
) -> Float[Array, " batch"]:
  """Returns the mean divergence over heads and valid tokens, one an example."""
  valid = _valid_pairs(mask, None, student)
  queries = jnp.any(valid, -1)
  values = kl_divergence(student, teacher, where=valid)
  count = jnp.maximum(jnp.sum(queries, (1, 2)), 1).astype(values.dtype)
  return jnp.sum(values, (1, 2), where=queries) / count


def _valid_pairs(
  mask: Array | None,
  where: Array | None,
  scores: Float[Array, "batch heads queries keys"],
) -> Bool[Array, "batch heads queries keys"]:
  """Returns which pairs of a query and a key count."""
  batch, _, queries, keys = scores.shape
  if mask is not None and queries != keys:
    raise ValueError(
      f"mask is given for {queries} queries and {keys} keys; expected as many."
    )
  key = valid_tokens(mask, where, scores[:, 0, 0, :])[:, None, None, :]
  query = (
    jnp.ones((batch, 1, queries, 1), bool)
    if mask is None
    else jnp.swapaxes(key, 2, 3)
  )
  return jnp.broadcast_to(query & key, scores.shape)
