"""VkD: smooth L1 of orthogonally projected embeddings."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def vkd_loss(
  student_embeddings: Float[Array, "batch width"],
  teacher_embeddings: Float[Array, "batch width"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""VkD: smooth L1 between projected and layer-normalized embeddings.

  .. math::
    \ell = \operatorname{mean}_d \operatorname{smooth}_{L_1} \left(
      s_d - \frac{t_d - \mu(t)}{\sqrt{\sigma^2(t) + 10^{-5}}} \right)

  Args:
    student_embeddings: the student's pooled features after an orthogonal
      projection, see `kdjax.methods.vkd`.
    teacher_embeddings: the teacher's pooled features; this function normalizes
      them. They receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    beside the cross-entropy and the KL divergence of a distillation token.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the embeddings are not floating-point.

  Examples:
    >>> teacher = jnp.array([[1.0, -1.0]])
    >>> vkd_loss(jnp.array([[3.0, -1.0]]), teacher)
    Array([0.75...], dtype=float32)

  References:
    Miles, Elezi and Deng, `VkD: improving knowledge distillation using
    orthogonal projections <https://arxiv.org/abs/2403.06213>`_, 2024.
  """
  student, teacher = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  mean = jnp.mean(teacher, -1, keepdims=True)
  variance = jnp.mean(jnp.square(teacher - mean), -1, keepdims=True)
  gap = jnp.abs(student - (teacher - mean) * jax.lax.rsqrt(variance + 1e-5))
  near = ops.at_most(gap, 1.0)
  return example_mean(0.5 * jnp.square(near) + (gap - near))
