"""Learning without forgetting (LwF)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def lwf_loss(
  student_logits: Float[Array, "*batch classes"],
  past_logits: Float[Array, "*batch classes"],
  past_classes: Bool[Array, " classes"] | None = None,
  *,
  temperature: ArrayLike = 2.0,
) -> Float[Array, "*batch"]:
  r"""Learning without forgetting (LwF): the past network's answers are kept.

  .. math::
    \ell = -\sum_{c \in \text{past}} p_c \log q_c, \quad
    p = \mathrm{softmax}(z^\text{past} / T), \;
    q = \mathrm{softmax}(z^\text{student} / T)

  with both softmaxes over the past classes. The paper writes p as the
  probabilities to the power 1/T, renormalized, which is the same.

  Args:
    student_logits: `[*batch, classes]`.
    past_logits: `[*batch, classes]`, of the network before the current task, on
      the same inputs; no gradient.
    past_classes: `[classes]`, True for the classes of earlier tasks; None for
      all. Logits of other classes get no gradient.
    temperature: T > 0. May be traced.

  Returns:
    One value an example, at least the entropy of p; 0 if there are no past
    classes. Published weight: 1, with T = 2 (mammoth on
    Split-MNIST; its default is 0.5).

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if an array has a wrong dtype.

  This is mammoth's coding: the cross-entropy, without a factor T^2. Avalanche
  computes the KL divergence, whose value is smaller by the entropy of p and
  whose gradient is equal. GMvandeVen's code offers the factor T^2, and gives
  new classes the probability 0 instead of leaving them out.

  Examples:
    >>> past = jnp.array([[2.0, 0.0, 0.0]])
    >>> old = jnp.array([True, True, False])
    >>> loss = lwf_loss(past, past, old)  # the entropy of (0.73, 0.27)
    >>> print(f"{loss[0]:.4f}")
    0.5822

  References:
    Li and Hoiem, `Learning without forgetting
    <https://arxiv.org/abs/1606.09282>`_, 2016; `mammoth
    <https://github.com/aimagelab/mammoth>`_, models/lwf.py.
  """
  past = ops.softened_softmax(
    jax.lax.stop_gradient(past_logits),
    temperature=temperature,
    where=past_classes,
  )
  log_student = ops.log_softened_softmax(
    student_logits, temperature=temperature, where=past_classes
  )
  return -jnp.sum(past * jnp.where(past != 0, log_student, 0.0), -1)
