"""ViTKD: squared error of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair
from kdjax.distillation.tokens._token_masks import TokenMask


@ops.validate
def vitkd_loss(
  student_hidden: Float[Array, "batch *layers tokens width"],
  teacher_hidden: Float[Array, "batch *layers tokens width"],
  mask: TokenMask | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""ViTKD: sum of squared differences of all or of masked tokens.

  .. math::
    \ell = \sum_{n d} m_n \, (h^S_{nd} - h^T_{nd})^2

  Both terms of the method use this distance: mimicking of the low layers, over
  all tokens, and generation of the last layer, over the masked tokens.
  `kdjax.methods.vitkd` adds the two terms.

  Args:
    student_hidden: the student's tokens, projected to the teacher's width, or
      generated tokens. The loss also sums over further axes, such as layers.
    teacher_hidden: the teacher's tokens; they receive no gradient.
    mask: `[batch, tokens]`, True for the tokens in the loss (for the
      generation, the tokens that were masked); None takes all.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weights of the mean over the batch: 3e-5 for
    the mimicking, 3e-6 / 0.5 for the generation.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the tokens are not floating-point.

  Examples:
    >>> tokens = jnp.zeros((1, 2, 3))
    >>> vitkd_loss(tokens, tokens + 1.0, jnp.array([[True, False]]))
    Array([3.], dtype=float32)

  References:
    Yang et al., `ViTKD: practical guidelines for ViT feature knowledge
    distillation <https://arxiv.org/abs/2209.02432>`_, 2022.
  """
  student, teacher = as_pair(
    student_hidden, teacher_hidden, stop_teacher_gradient
  )
  difference = student - teacher
  if mask is not None:
    batch, tokens = mask.shape
    layers = (1,) * (student.ndim - 3)
    keep = mask.astype(bool).reshape(batch, *layers, tokens, 1)
    difference = jnp.where(keep, difference, 0.0)
  return jnp.sum(jnp.square(difference), tuple(range(1, student.ndim)))
