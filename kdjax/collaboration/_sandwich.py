"""Progressive shrinking: the largest network teaches the ones inside it."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def sandwich_loss(
  student_logits: Float[Array, "networks *batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
  r"""Sandwich rule: in-place distillation of networks that share weights.

  .. math:: \ell = T^2 \sum_k \mathrm{KL}(p_{\mathrm{largest}} \Vert q_k)

  A step trains the largest network by the labels, and by this loss the
  smallest network and some of random size, all of which are parts of the
  largest one.

  Args:
    student_logits: `[networks, *batch, classes]`, of the smaller networks.
    teacher_logits: `[*batch, classes]`, of the largest network in the same
      step; no gradient, although the networks share their weights.
    temperature: T > 0. May be traced.

  Returns:
    One value an example, a sum over networks. Published weight: 1, beside the
    cross-entropy of the largest network with the labels.

  Raises:
    ValueError: if shapes do not fit or a static temperature is not above 0.
    TypeError: if an array has a wrong dtype.

  The authors' code has the cross-entropy with the largest network's
  probabilities, which differs by their entropy and has the same gradient, and
  T = 1. Once-for-all networks are shrunk by the same rule, with a trained
  teacher in place of the largest network of the step.

  Examples:
    >>> teacher = jnp.array([[1.0, 0.0]])
    >>> print(sandwich_loss(jnp.stack([teacher, teacher]), teacher))
    [0.]

  References:
    Yu and Huang, `Universally slimmable networks and improved training
    techniques <https://arxiv.org/abs/1903.05134>`_, 2019; Cai et al.,
    `Once-for-all: train one network and specialize it for efficient deployment
    <https://arxiv.org/abs/1908.09791>`_, 2020.
  """
  ops.check_positive("temperature", temperature)
  students = student_logits.astype(ops.compute_dtype(student_logits))
  teacher = jax.lax.stop_gradient(teacher_logits)[None]
  scale = ops.as_number("temperature", temperature, students.dtype)
  values = ops.forward_kl(
    jnp.broadcast_to(teacher, students.shape), students, scale
  )
  return jnp.square(scale) * jnp.sum(values, 0)
