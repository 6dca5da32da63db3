"""The joint objective: a task, a teacher of another modality, an alignment."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.validate
def cross_modal_joint_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  student_embeddings: Float[Array, "*batch dims"],
  teacher_embeddings: Float[Array, "*batch dims"],
  *,
  distillation: ArrayLike = 1.0,
  alignment: ArrayLike = 1.0,
  temperature: ArrayLike = 4.0,
) -> Float[Array, "*batch"]:
  r"""Joint cross-modal objective: task, distillation and alignment of a pair.

  .. math::
    \ell = H(y, q^S(x_b))
      + \alpha T^2 \, \mathrm{KL}(q^T_T(x_a) \Vert q^S_T(x_b))
      + \beta \, \tfrac12 \lVert \bar\phi_a - \bar\phi_b \rVert_2^2

  with softmaxes q softened by T, and unit vectors of the features phi of the
  teacher's modality a and of the student's modality b. The alignment is one
  minus the cosine of the paired features.

  Args:
    student_logits: `[*batch, classes]`, of modality b.
    teacher_logits: `[*batch, classes]`, of modality a of the same examples; no
      gradient.
    labels: `[*batch]`.
    student_embeddings: `[*batch, dims]`, features of modality b. Where the
      student has another width, they are mapped linearly first.
    teacher_embeddings: `[*batch, dims]`, features of modality a; no gradient.
    distillation: alpha. May be traced.
    alignment: beta. May be traced.
    temperature: T > 0. May be traced.

  Returns:
    One value an example, the whole loss.

  Raises:
    ValueError: if the shapes differ, as those of unpaired batches, or a static
      temperature is not positive.
    TypeError: if an array has a wrong dtype.

  Published methods are special cases: Gupta et al. align features alone, KD
  across modalities is `alignment=0`. No paper publishes weights of the whole
  sum.

  Examples:
    >>> logits, rows = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])
    >>> label = jnp.array([0])
    >>> loss = cross_modal_joint_loss(logits, logits, label, rows, -rows)
    >>> print(loss)
    [2.6931472]

  References:
    Gupta et al., `Cross modal distillation for supervision transfer
    <https://arxiv.org/abs/1507.00448>`_, 2016; Hinton et al., `Distilling the
    knowledge in a neural network <https://arxiv.org/abs/1503.02531>`_, 2015.
  """
  dtype = ops.compute_dtype(student_logits)
  teacher_logits, teacher_embeddings = jax.lax.stop_gradient(
    (teacher_logits, teacher_embeddings)
  )
  task = ops.cross_entropy(student_logits, labels)
  soft = ops.kl_divergence(
    student_logits, teacher_logits, temperature=temperature
  )
  soft = jnp.square(jnp.asarray(temperature, soft.dtype)) * soft
  ours, theirs = (
    ops.normalize_as_torch(jnp.asarray(x, dtype))
    for x in (student_embeddings, teacher_embeddings)
  )
  apart = 0.5 * jnp.sum(jnp.square(ours - theirs), -1)
  alpha = ops.as_number("distillation", distillation, dtype)
  beta = ops.as_number("alignment", alignment, dtype)
  return task + alpha * soft + beta * apart
