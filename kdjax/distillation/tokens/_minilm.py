"""MiniLM and MiniLMv2: relations of queries, keys and values."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair
from kdjax.distillation.tokens._token_masks import (
  TokenMask,
  valid_pairs,
  valid_tokens,
)


@ops.validate
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
  r"""MiniLM: KL of the last layer's attention and of its value relations.

  .. math::
    \ell = \frac{1}{H |x|} \sum_{hi} \left[
      \mathrm{KL}(A^T_{hi} \Vert A^S_{hi})
      + \mathrm{KL}(R^T_{hi} \Vert R^S_{hi}) \right], \qquad
    R = \operatorname{softmax} \left( \frac{V V^\top}{\sqrt{d}} \right)

  over the |x| valid tokens, as queries i and as keys. Student and teacher have
  the same number of heads; the widths of the heads may differ.

  Args:
    student_attention: scores before the softmax, `[batch, heads, tokens,
      tokens]`. For attention probabilities, pass their logarithms.
    teacher_attention: the teacher's scores; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all.
    student_values: the value vectors V, `[batch, heads, tokens, width]`.
    teacher_values: the teacher's value vectors. Without values, the loss is the
      first term, the attention transfer.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats; 0 if it has no valid token.

  Raises:
    ValueError: if shapes differ or only one side has values.
    TypeError: if an argument is not floating-point.

  The authors published no code; the formula is the paper's.

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
      "minilm_loss: got one of student_values and teacher_values; "
      "expected both or neither."
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


@ops.validate
def minilm_v2_loss(
  student_hidden: ArrayLike | Sequence[ArrayLike],
  teacher_hidden: ArrayLike | Sequence[ArrayLike],
  mask: TokenMask | None = None,
  *,
  relation_heads: int = 48,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""MiniLMv2: KL of relations of queries, keys and values.

  .. math::
    \ell = \sum_{X \in \{Q, K, V\}} \frac{1}{3 A_r |x|} \sum_{ai}
      \mathrm{KL}(R^T_{X,ai} \Vert R^S_{X,ai}), \qquad
    R_X = \operatorname{softmax}
      \left( \frac{X_a X_a^\top}{\sqrt{d_r}} \right)

  The concatenated vectors of all heads are split into A_r relation heads of
  width d_r, so that student and teacher may differ in the number and the width
  of heads.

  Args:
    student_hidden: the queries, keys and values of one layer with concatenated
      heads, `[batch, tokens, width]` each; or one such array.
    teacher_hidden: the teacher's vectors; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all.
    relation_heads: A_r, a divisor of all widths; in the paper 48 for base-size
      and 64 for large teachers.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats, the mean over the relations; 0 if the
    example has no valid token.

  Raises:
    ValueError: if shapes or the numbers of relations differ, or a width is not
      a multiple of `relation_heads`.
    TypeError: if the vectors are not floating-point.

  The authors published no code. The value, with a weight of 1/3 for each
  relation, equals that of bloomberg's minilmv2.bb.

  Examples:
    >>> vectors = jnp.ones((1, 3, 96))
    >>> minilm_v2_loss([vectors] * 3, [2.0 * vectors] * 3)
    Array([0.], dtype=float32)

  References:
    Wang et al., `MiniLMv2: multi-head self-attention relation distillation
    for compressing pretrained transformers
    <https://arxiv.org/abs/2012.15828>`_, 2021.
  """
  ops.check_integer("relation_heads", relation_heads, 1)
  students = _listed("student_hidden", student_hidden)
  teachers = _listed("teacher_hidden", teacher_hidden)
  if len(students) != len(teachers) or not students:
    raise ValueError(
      f"minilm_v2_loss: student_hidden has {len(students)} relations and "
      f"teacher_hidden {len(teachers)}; expected equal numbers, at least 1."
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


@ops.validate
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


def _listed(name: str, hidden: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
  arrays = hidden if isinstance(hidden, list | tuple) else [hidden]
  for x in arrays:
    if not isinstance(x, jax.Array | np.ndarray):
      raise TypeError(
        f"minilm_v2_loss: {name} is {hidden!r}; expected an array, or a "
        "sequence of arrays."
      )
  return [jnp.asarray(x) for x in arrays]


def _relation(
  vectors: Float[Array, "batch heads tokens width"], mask: Array | None
) -> Float[Array, "batch heads tokens tokens"]:
  """Returns the scaled dot products of a layer's vectors with themselves."""
  valid = valid_tokens(mask, None, vectors[:, 0, :, 0])[:, None]
  vectors = ops.zero_masked(
    vectors, jnp.broadcast_to(valid, vectors.shape[:-1])
  )
  products = jnp.einsum(
    "bhid,bhjd->bhij", vectors, vectors, precision="highest"
  )
  return products / jnp.sqrt(jnp.asarray(vectors.shape[-1], products.dtype))


def _relation_loss(
  student: Float[Array, "batch heads tokens tokens"],
  teacher: Float[Array, "batch heads tokens tokens"],
  mask: Array | None,
) -> Float[Array, " batch"]:
  """Returns one value an example: the mean KL over heads and valid tokens."""
  valid = valid_pairs(mask, None, student)
  queries = jnp.any(valid, -1)
  values = ops.kl_divergence(student, teacher, where=valid)
  count = jnp.maximum(jnp.sum(queries, (1, 2)), 1).astype(values.dtype)
  return jnp.sum(values, (1, 2), where=queries) / count
