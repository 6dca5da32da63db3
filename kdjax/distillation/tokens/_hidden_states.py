"""Losses on hidden states of transformers (TinyBERT, DistilBERT, Gram)."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean
from kdjax.distillation.tokens._token_masks import TokenMask, valid_tokens


@ops.validate
def hidden_mse_loss(
  student_hidden: Float[Array, "batch tokens width"],
  teacher_hidden: Float[Array, "batch tokens width"],
  mask: TokenMask | None = None,
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Hidden-state loss (TinyBERT): mean squared error over valid tokens.

  .. math::
    \ell = \frac{\sum_{bn} m_{bn} \lVert h^S_{bn} - h^T_{bn} \rVert^2}
                {D \sum_{bn} m_{bn}}

  Args:
    student_hidden: `[batch, tokens, width]`, projected to the teacher's width.
    teacher_hidden: the teacher's hidden states; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if no token is valid. As in published codes, a
    longer example has a larger weight. Published weight: 1 (TinyBERT,
    TextBrewer).

  Raises:
    ValueError: if shapes differ.
    TypeError: if the states are not floating-point.

  TextBrewer and this code divide by the number of valid tokens and the width;
  EasyDeL does not divide by the width; TinyBERT has no mask and averages over
  padding.

  Examples:
    >>> hidden = jnp.zeros((1, 2, 3))
    >>> hidden_mse_loss(hidden, hidden + 2.0, jnp.array([[1, 0]]))
    Array(4., dtype=float32)

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020, and
    Yang et al., `TextBrewer <https://arxiv.org/abs/2002.12620>`_, 2020.
  """
  student, teacher = as_pair(
    student_hidden, teacher_hidden, stop_teacher_gradient
  )
  valid = valid_tokens(mask, where, student[..., 0])
  values = jnp.mean(jnp.square(ops.zero_masked(student - teacher, valid)), -1)
  return ops.masked_mean(values, valid, axis_name=axis_name)


@ops.validate
def cosine_embedding_loss(
  student_hidden: Float[Array, "batch tokens width"],
  teacher_hidden: Float[Array, "batch tokens width"],
  mask: TokenMask | None = None,
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Cosine embedding loss (DistilBERT): cosine distance over valid tokens.

  .. math::
    \ell = \frac{\sum_{bn} m_{bn} (1 - \cos(h^S_{bn}, h^T_{bn}))}
                {\sum_{bn} m_{bn}}

  Args:
    student_hidden: `[batch, tokens, width]`, of the teacher's width.
    teacher_hidden: the teacher's hidden states; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; 0 with gradient 0 if no token is valid. A zero vector has the loss
    1. Published weight: 1, beside 5 times the soft-target loss and 2 times the
    masked language modeling loss (DistilBERT).

  Raises:
    ValueError: if shapes differ.
    TypeError: if the states are not floating-point.

  Examples:
    >>> hidden = jnp.array([[[3.0, 0.0], [0.0, 2.0]]])
    >>> cosine_embedding_loss(hidden, hidden[:, ::-1])
    Array(1., dtype=float32)

  References:
    Sanh et al., `DistilBERT <https://arxiv.org/abs/1910.01108>`_, 2019.
  """
  valid = valid_tokens(mask, where, student_hidden[..., 0])
  student, teacher = (
    ops.normalize_as_torch(ops.zero_masked(x, valid))
    for x in as_pair(student_hidden, teacher_hidden, stop_teacher_gradient)
  )
  values = 1 - jnp.sum(student * teacher, -1)
  return ops.masked_mean(values, valid, axis_name=axis_name)


@ops.validate
def gram_loss(
  student_hidden: Sequence[ArrayLike],
  teacher_hidden: Sequence[ArrayLike],
  mask: TokenMask | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Gram loss (FSP of transformers): equal Gram matrices between layers.

  .. math::
    \ell = \operatorname{mean}_{ij} (G^S - G^T)_{ij}^2, \qquad
    G = \frac{1}{\sum_n m_n} \sum_n m_n \, h_n \, {h'_n}^\top

  Args:
    student_hidden: the two layers h and h', `[batch, tokens, width]` each,
      projected to the teacher's widths.
    teacher_hidden: the teacher's two layers; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example; 0 if it has no valid token.

  Raises:
    ValueError: if there are not two layers on each side or shapes differ.
    TypeError: if the states are not floating-point.

  Examples:
    >>> ones = jnp.ones((1, 3, 2))
    >>> gram_loss([ones, ones], [ones, 3.0 * ones])
    Array([4.], dtype=float32)

  References:
    Yim, Joo, Bae and Kim, `A gift from knowledge distillation
    <https://openaccess.thecvf.com/content_cvpr_2017/papers/Yim_A_Gift_From_CVPR_2017_paper.pdf>`_,
    2017, in the form of `TextBrewer <https://arxiv.org/abs/2002.12620>`_.
  """
  for name, layers in (
    ("student_hidden", student_hidden),
    ("teacher_hidden", teacher_hidden),
  ):
    if len(layers) != 2:
      raise ValueError(
        f"gram_loss: {name} has {len(layers)} layers; expected 2."
      )
  return _gram_loss(
    *(jnp.asarray(x) for x in (*student_hidden, *teacher_hidden)),
    mask=mask,
    stop_teacher_gradient=stop_teacher_gradient,
  )


@ops.validate
def _gram_loss(
  student_first: Float[Array, "batch tokens first_width"],
  student_second: Float[Array, "batch tokens second_width"],
  teacher_first: Float[Array, "batch tokens first_width"],
  teacher_second: Float[Array, "batch tokens second_width"],
  *,
  mask: TokenMask | None,
  stop_teacher_gradient: bool,
) -> Float[Array, " batch"]:
  firsts = as_pair(student_first, teacher_first, stop_teacher_gradient)
  seconds = as_pair(student_second, teacher_second, stop_teacher_gradient)
  valid = valid_tokens(mask, None, student_first[..., 0])
  length = jnp.maximum(jnp.sum(valid, 1), 1)
  student, teacher = (
    jnp.einsum(
      "bni,bnj->bij",
      *(ops.zero_masked(x, valid) for x in layers),
      precision="highest",
    )
    for layers in zip(firsts, seconds, strict=True)
  )
  scale = length.astype(student.dtype)[:, None, None]
  return example_mean(jnp.square((student - teacher) / scale))
