"""Patient knowledge distillation (PKD)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair
from kdjax.distillation.tokens._token_masks import TokenMask


@ops.validate
def pkd_loss(
  student_hidden: Float[Array, "batch width"]
  | Float[Array, "batch tokens width"],
  teacher_hidden: Float[Array, "batch width"]
  | Float[Array, "batch tokens width"],
  mask: TokenMask | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Patient knowledge distillation (PKD): squared distance of unit vectors.

  .. math::
    \ell = \left\lVert \frac{h^S_0}{\lVert h^S_0 \rVert_2}
                     - \frac{h^T_0}{\lVert h^T_0 \rVert_2} \right\rVert_2^2

  where h_0 is the hidden state of the first token, [CLS].

  Args:
    student_hidden: the hidden states of one layer, or of its first token.
    teacher_hidden: the teacher's hidden states; they receive no gradient.
    mask: `[batch, tokens]`, True for the valid tokens; None takes all. The loss
      reads the first token only.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example; 0 if its first token is not valid. Sum the values over
    the layers. Published weight: 10 to 1000, by task.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the states are not floating-point.

  Examples:
    >>> pkd_loss(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]]))
    Array([2.], dtype=float32)

  References:
    Sun, Cheng, Gan and Liu, `Patient knowledge distillation for BERT model
    compression <https://arxiv.org/abs/1908.09355>`_, 2019.
  """
  where = None if mask is None else mask[:, 0].astype(bool)
  student, teacher = (
    ops.normalize_as_torch(
      ops.zero_masked(x if x.ndim == 2 else x[:, 0], where)
    )
    for x in as_pair(student_hidden, teacher_hidden, stop_teacher_gradient)
  )
  return jnp.sum(jnp.square(student - teacher), -1)
