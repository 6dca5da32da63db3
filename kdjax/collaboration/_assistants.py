"""Chains of teachers: densely guided KD, and annealing."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def dense_guidance_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "teachers *batch classes"],
  *,
  temperature: ArrayLike = 5.0,
  keep: Bool[Array, " teachers"] | None = None,
) -> Float[Array, "*batch"]:
  r"""Densely guided distillation (DGKD): a teacher and all its assistants.

  .. math:: \ell = T^2 \sum_k \mathrm{KL}(p_k \Vert q)

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[teachers, *batch, classes]`, of the teacher and of each
      assistant between teacher and student; no gradient.
    temperature: T > 0. May be traced.
    keep: `[teachers]`, True for the teachers of this step. The authors drop
      some of them at random; None keeps all.

  Returns:
    One value an example, a sum over teachers. Published weight: 1, without a
    cross-entropy.

  Raises:
    ValueError: if shapes do not fit or a static temperature is not above 0.
    TypeError: if an array has a wrong dtype.

  The authors' code divides by the number of classes too. With one teacher it is
  `distillation.soft_target_loss`, with which TAKD trains each network of the
  chain in turn.

  Examples:
    >>> student = jnp.zeros((1, 2))
    >>> print(dense_guidance_loss(student, jnp.zeros((3, 1, 2))))
    [0.]

  References:
    Son et al., `Densely guided knowledge distillation using multiple teacher
    assistants <https://arxiv.org/abs/2009.08825>`_, 2021; Mirzadeh et al.,
    `Improved knowledge distillation via teacher assistant
    <https://arxiv.org/abs/1902.03393>`_, 2020.
  """
  teachers = jax.lax.stop_gradient(teacher_logits)
  student_logits = student_logits.astype(ops.compute_dtype(student_logits))
  students = jnp.broadcast_to(student_logits[None], teachers.shape)
  scale = ops.as_number(
    "temperature", temperature, ops.compute_dtype(student_logits)
  )
  ops.check_positive("temperature", temperature)
  values = ops.forward_kl(teachers, students, scale)
  if keep is not None:
    used = jnp.expand_dims(keep, range(1, values.ndim))
    values = jnp.where(used, values, 0.0)
  return jnp.square(scale) * jnp.sum(values, 0)


@ops.validate
def annealing_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike,
  max_temperature: ArrayLike,
) -> Float[Array, "*batch"]:
  r"""Annealing KD: logits of a teacher that is flat at first.

  .. math::
    \ell = \frac1C \lVert z^S - \Phi(T) z^T \rVert_2^2, \quad
    \Phi(T) = 1 - \frac{T - 1}{T_{max}}

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`; no gradient.
    temperature: T, which falls from T_max to 1 over the first phase. May be
      traced.
    max_temperature: T_max, 10 on CIFAR (the authors). May be traced.

  Returns:
    One value an example, a mean over classes. A class with a logit of -inf in
    both arrays adds 0. It is the only loss of the first phase; the second phase
    has the cross-entropy alone.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  The authors' code counts T up, with the factor T / T_max.

  Examples:
    >>> logits = jnp.array([[2.0, 4.0]])
    >>> loss = annealing_loss(
    ...   logits, logits, temperature=6.0, max_temperature=10.0
    ... )
    >>> print(loss)
    [2.5]

  References:
    Jafari et al., `Annealing knowledge distillation
    <https://arxiv.org/abs/2104.07163>`_, 2021.
  """
  ops.check_positive("temperature", temperature)
  ops.check_positive("max_temperature", max_temperature)
  student = student_logits.astype(ops.compute_dtype(student_logits))
  teacher = jax.lax.stop_gradient(teacher_logits)
  teacher = teacher.astype(ops.compute_dtype(teacher))
  now, top = (
    ops.as_number(name, value, student.dtype)
    for name, value in (
      ("temperature", temperature),
      ("max_temperature", max_temperature),
    )
  )
  masked = (student == -jnp.inf) & (teacher == -jnp.inf)
  student, teacher = (jnp.where(masked, 0.0, x) for x in (student, teacher))
  return jnp.mean(jnp.square(student - (1 - (now - 1) / top) * teacher), -1)
