"""Binary Kullback-Leibler loss (BKL) of VanillaKD."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import teacher_side


@ops.validate
def binary_kl_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Binary Kullback-Leibler loss (BKL): one binary cross-entropy per class.

  .. math::
    \ell = -\frac{1}{C} \sum_c \bigl( p^T_c \log \sigma(z^S_c)
           + (1 - p^T_c) \log \sigma(-z^S_c) \bigr), \quad
    p^T = \mathrm{softmax}(z^T)

  The loss suits a student that is trained with a binary cross-entropy on mixed
  images.

  Args:
    student_logits: `[*batch, classes]`; sigma is the logistic function.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example, in nats: the mean over classes. Published weight: 1,
    beside 1 times the cross-entropy with the labels, binary or not.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the logits are not floating-point.

  As in the authors' code, the loss is a cross-entropy: its minimum is the
  teacher's entropy, not 0. A class with -inf on both sides adds 0.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0]])
    >>> binary_kl_loss(logits, logits)
    Array([0.6931472], dtype=float32)

  References:
    Hao et al., `Revisit the power of vanilla knowledge distillation: from small
    scale to large scale <https://arxiv.org/abs/2305.15781>`_, 2023; code
    Hao840/vanillaKD.
  """
  target = ops.softened_softmax(
    teacher_side(teacher_logits, stop_teacher_gradient)
  )
  student_logits = student_logits.astype(
    jnp.promote_types(ops.compute_dtype(student_logits), target.dtype)
  )
  # The value is softplus(z) - p z. A masked class has z = -inf and p = 0, whose
  # product would be NaN.
  product = target * jnp.where(target != 0, student_logits, 0.0)
  return jnp.mean(jax.nn.softplus(student_logits) - product, -1)
