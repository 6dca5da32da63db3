"""Replay of stored outputs: dark experience (DER) and FDR."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def der_loss(
  student_logits: Float[Array, "*batch classes"],
  stored_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Dark experience replay (DER): stored logits of replayed examples are kept.

  .. math:: \ell = \frac1C \lVert z - z^\text{stored} \rVert_2^2

  Args:
    student_logits: `[*batch, classes]`, of replayed examples.
    stored_logits: `[*batch, classes]`, the student's own when the examples were
      stored, of all classes, not normalized; no gradient.

  Returns:
    One value an example, a mean over classes. A class with a logit of -inf in
    both arrays adds 0. Published weight: 0.2 or 1 on Split-MNIST, for a buffer
    of 200 or 500, beside the cross-entropy of the current examples (weight 1).

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the logits are not floating-point.

  DER++ adds the cross-entropy of replayed examples with their labels, of a
  second, independent draw from the buffer (`reservoir_sample`), with weight 1
  or 0.5: the method `"der_plus_plus"`.

  Examples:
    >>> print(der_loss(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])))
    [2.]

  References:
    Buzzega et al., `Dark experience for general continual learning
    <https://arxiv.org/abs/2004.07211>`_, 2020; `mammoth
    <https://github.com/aimagelab/mammoth>`_, models/der.py.
  """
  stored = jax.lax.stop_gradient(stored_logits)
  logits, stored = (
    x.astype(ops.compute_dtype(x)) for x in (student_logits, stored)
  )
  masked = (logits == -jnp.inf) & (stored == -jnp.inf)
  gaps = jnp.where(masked, 0.0, logits) - jnp.where(masked, 0.0, stored)
  return jnp.mean(jnp.square(gaps), -1)


@ops.validate
def fdr_loss(
  student_logits: Float[Array, "*batch classes"],
  stored_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Function distance regularization (FDR): stored probabilities are kept.

  .. math::
    \ell = \lVert \mathrm{softmax}(z) - \mathrm{softmax}(z^\text{stored})
           \rVert_2

  Args:
    student_logits: `[*batch, classes]`, of replayed examples.
    stored_logits: `[*batch, classes]`, the student's own at the end of the task
      of each example; no gradient.

  Returns:
    One value an example, between 0 and the root of 2; the distance is not
    squared. Published weight: 0.5 on Split-MNIST with a buffer of 200.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> print(fdr_loss(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, -jnp.inf]])))
    [0.70710677]

  References:
    Benjamin, Rolnick and Kording, `Measuring and regularizing networks in
    function space <https://arxiv.org/abs/1805.08289>`_, 2019; `mammoth
    <https://github.com/aimagelab/mammoth>`_, models/fdr.py.
  """
  stored = ops.softened_softmax(jax.lax.stop_gradient(stored_logits))
  return ops.safe_norm(ops.softened_softmax(student_logits) - stored)
