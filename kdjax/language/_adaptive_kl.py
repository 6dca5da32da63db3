"""Adaptive Kullback-Leibler divergence (AKL)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def adaptive_kl_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  head_mass: ArrayLike = 0.5,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Adaptive Kullback-Leibler divergence (AKL): weighted by head and tail.

  .. math::
    \ell = \frac{g_h \, \mathrm{KL}(P \Vert Q) + g_t \, \mathrm{KL}(Q \Vert P)}
                {g_h + g_t}, \qquad
    g_h = \sum_{c \in \mathrm{head}} |P_c - Q_c|, \quad
    g_t = \sum_{c \in \mathrm{tail}} |P_c - Q_c|

  The tail holds the classes whose cumulative teacher probability, in ascending
  order, is at most 1 - `head_mass`; the head holds all others. The forward KL
  learns the head first, the reverse KL the tail. The two weights receive no
  gradient.

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; they receive no gradient.
    head_mass: the teacher's probability that the head holds at least, in
      [0, 1]. May be traced.
    temperature: T > 0; a number, or one a row. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value a row, in nats, without a T^2 factor.

  Raises:
    ValueError: if the shapes differ, a static temperature is not above 0 or a
      static mass is outside [0, 1].
    TypeError: if the logits are not floating-point.

  The published code's argument is the mass of the tail, 1 - `head_mass`. Where
  both distributions are equal, the code divides 0 by 0; here the value is 0.

  Examples:
    >>> logits = jnp.array([[1.0, 2.0, 3.0]])
    >>> adaptive_kl_loss(logits, logits)
    Array([0.], dtype=float32)

  References:
    Wu et al., `Rethinking Kullback-Leibler divergence in knowledge distillation
    for large language models <https://arxiv.org/abs/2404.02657>`_, 2025, in the
    form of `DSKD <https://github.com/songmzhang/DSKD>`_.
  """
  if stop_teacher_gradient:
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
  dtype = jnp.promote_types(
    ops.compute_dtype(student_logits), ops.compute_dtype(teacher_logits)
  )
  tail_mass = 1 - ops.as_fraction("head_mass", head_mass, dtype)
  student, teacher = (
    jax.lax.stop_gradient(
      ops.softened_softmax(x.astype(dtype), temperature=temperature)
    )
    for x in (student_logits, teacher_logits)
  )
  order = jnp.argsort(teacher, -1)
  ascending, gap = (
    jnp.take_along_axis(x, order, -1)
    for x in (teacher, jnp.abs(teacher - student))
  )
  in_tail = jnp.cumsum(ascending, -1) <= tail_mass
  tail = jnp.sum(jnp.where(in_tail, gap, 0.0), -1)
  head = jnp.sum(jnp.where(in_tail, 0.0, gap), -1)
  total = ops.nonzero_divisor(head + tail)
  forward, reverse = (
    weight
    / total
    # A weight of 0 times an infinite divergence is 0.
    * jnp.where((weight == 0) & jnp.isposinf(divergence), 0.0, divergence)
    for weight, divergence in (
      (head, ops.forward_kl(teacher_logits, student_logits, temperature)),
      (tail, ops.forward_kl(student_logits, teacher_logits, temperature)),
    )
  )
  return forward + reverse
