"""Accuracy, agreement, likelihood and entropy, one value an example."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops


@ops.validate
def accuracy(
  logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"]
) -> Float[Array, "*batch"]:
  r"""Top-1 accuracy: 1 where the largest logit is the label's.

  .. math::
    [\operatorname{argmax}_c z_c = y]

  Args:
    logits: `[*batch, classes]`. Of equal logits the first class is predicted; a
      row with NaN is never correct.
    labels: class indices `[*batch]`, in [0, classes).

  Returns:
    0 or 1, one value an example. `masked_mean` gives the mean.

  Raises:
    ValueError: if logits and labels differ in batch shape.
    TypeError: if labels are not integers.

  Examples:
    >>> accuracy(jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1]))
    Array([1., 0.], dtype=float32)

  References:
    Hinton et al., `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015, count the errors this way.
  """
  ops.check_labels(labels, logits.shape[-1])
  hits = (jnp.argmax(logits, axis=-1) == labels) & ~_is_nan(logits)
  return hits.astype(ops.compute_dtype(logits))


@ops.validate
def agreement(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Top-1 agreement (fidelity): 1 where student and teacher predict alike.

  .. math::
    [\operatorname{argmax}_c z^S_c = \operatorname{argmax}_c z^T_c]

  Args:
    student_logits: `[*batch, classes]`.
    teacher_logits: `[*batch, classes]`, of the same shape.

  Returns:
    0 or 1, one value an example. `masked_mean` gives the mean.

  Raises:
    ValueError: if the shapes differ.

  Examples:
    >>> student = jnp.array([[1.0, 2.0], [3.0, 1.0]])
    >>> agreement(student, jnp.array([[0.0, 9.0], [0.0, 9.0]]))
    Array([1., 0.], dtype=float32)

  References:
    Stanton et al., `Does knowledge distillation really work?
    <https://arxiv.org/abs/2106.05945>`_, 2021, equation 5.
  """
  same = jnp.argmax(student_logits, -1) == jnp.argmax(teacher_logits, -1)
  same &= ~_is_nan(student_logits) & ~_is_nan(teacher_logits)
  return same.astype(ops.compute_dtype(student_logits))


@ops.validate
def negative_log_likelihood(
  logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"]
) -> Float[Array, "*batch"]:
  r"""Negative log-likelihood (NLL) of the labels, in nats.

  .. math::
    -\log q_y = \log \Bigl(1 + \sum_{c \ne y} e^{z_c - z_y}\Bigr)

  This form keeps the digits of a confident prediction: a likelihood of 1 - 1e-9
  gives 1e-9, not 0.

  Args:
    logits: `[*batch, classes]`. A class with logit -inf has likelihood 0.
    labels: class indices `[*batch]`, in [0, classes).

  Returns:
    One value an example; inf if the label's logit is -inf and another is not.

  Raises:
    ValueError: if logits and labels differ in batch shape.
    TypeError: if labels are not integers.

  Examples:
    >>> negative_log_likelihood(jnp.array([[0.0, 20.0]]), jnp.array([1]))
    Array([2.0611537e-09], dtype=float32)

  References:
    Guo et al., `On calibration of modern neural networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, equation 6.
  """
  return ops.cross_entropy(logits, labels)


@ops.validate
def entropy(
  logits: Float[Array, "*batch classes"], *, temperature: ArrayLike = 1.0
) -> Float[Array, "*batch"]:
  r"""Entropy of a prediction, in nats.

  .. math::
    -\sum_c q_c \log q_c, \quad q = \mathrm{softmax}(z / T)

  Near 0, a teacher's soft targets are one-hot, and distillation at this
  temperature adds no information to the labels.

  Args:
    logits: `[*batch, classes]`. A class with logit -inf has probability 0.
    temperature: T > 0; a number, or one per example.

  Returns:
    One value an example, in [0, log(classes)].

  Raises:
    ValueError: if a static temperature is not above 0.

  Examples:
    >>> print(f"{entropy(jnp.zeros((1, 2)))[0]:.4f}")  # log 2
    0.6931

  References:
    Shannon, `A mathematical theory of communication
    <https://doi.org/10.1002/j.1538-7305.1948.tb01338.x>`_, 1948.
  """
  log_q = ops.log_softened_softmax(logits, temperature=temperature)
  q = jnp.exp(log_q)
  # A class with probability 0 adds 0; 0 log 0 would be NaN.
  return -jnp.sum(q * jnp.where(q == 0, 0.0, log_q), -1)


def _is_nan(logits: Float[Array, "*batch classes"]) -> Bool[Array, "*batch"]:
  """Returns True for rows with NaN, whose argmax would be class 0."""
  return jnp.any(jnp.isnan(logits), -1)
