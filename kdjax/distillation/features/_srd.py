"""Simple recipe distillation (SRD)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
def srd_loss(
  student_embeddings: Float[Array, "batch width"],
  teacher_embeddings: Float[Array, "batch width"],
  *,
  exponent: ArrayLike = 4.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Simple recipe distillation (SRD): log-sum of a power of the gaps.

  .. math::
    \ell = 2 \log \Bigl( \epsilon + \sum_{bd} |s_{bd} - t_{bd}|^p \Bigr),
    \qquad \epsilon = 10^{-12}

  a sum over the whole batch, without a mean. `kdjax.methods.srd` projects
  the student's embeddings linearly and batch-normalizes both sides, without
  scale and bias.

  Args:
    student_embeddings: the student's embeddings, projected and normalized.
    teacher_embeddings: the teacher's embeddings, normalized; they receive no
      gradient.
    exponent: p. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A scalar; -55.3 where student and teacher agree, 0 with gradient 0 if
    `where` is all False. Published weight: 1, beside the cross-entropy and the
    KL divergence at temperature 1.

  Raises:
    ValueError: if the shapes differ or a static exponent is not above 0.
    TypeError: if the embeddings are not floating-point.

  Epsilon keeps the loss of equal embeddings finite. The authors' code for DeiT
  has 1e-5; their code for ImageNet's ResNets and torchdistill have no epsilon.

  Examples:
    >>> srd_loss(jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 0.0]])).round(4)
    Array(1.3863, dtype=float32)

  References:
    Miles and Mikolajczyk, `Understanding the role of the projector in
    knowledge distillation <https://arxiv.org/abs/2303.11098>`_, 2024.
  """
  ops.check_positive("exponent", exponent)
  student, teacher = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  if where is None:
    where = jnp.ones(student.shape[:1], bool)
  exponent = ops.as_number("exponent", exponent, student.dtype)
  sizes = jnp.abs(jnp.where(where[:, None], student - teacher, 0.0))
  zero = sizes == 0
  powers = jnp.where(
    zero, 0.0, jnp.power(jnp.where(zero, 1.0, sizes), exponent)
  )
  summed, counted = ops.sum_over_devices(
    (jnp.sum(powers), jnp.sum(where)), axis_name
  )
  return jnp.where(counted > 0, 2 * jnp.log(summed + 1e-12), 0.0)
