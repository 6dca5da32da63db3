"""Entropy, information maximization and class balance of predictions."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def entropy_loss(
  target_logits: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
  r"""Entropy minimization: entropy of the predictions on the target.

  .. math:: \ell = -\sum_c p_c \log p_c, \qquad p = \mathrm{softmax}(z / T)

  Args:
    target_logits: `[*batch, classes]`; a class at -inf is masked.
    temperature: T > 0, a scalar or one per row. May be traced.

  Returns:
    One value an example, in nats. Published weight: 0.1 times the mean over
    the batch (with AFN and IWAN in TLlib).

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  TLlib and SHOT add 1e-5 to the probability inside the logarithm, BNM adds
  1e-8. Each changes the value by about that constant times the number of
  classes. Computed from logits, the logarithm needs no constant.

  Examples:
    >>> entropy_loss(jnp.array([[0.0, 0.0], [1e4, 0.0]]))
    Array([0.6931472, 0.       ], dtype=float32)

  References:
    Grandvalet and Bengio, `Semi-supervised learning by entropy minimization
    <https://papers.nips.cc/paper/2740>`_, 2004.
  """
  log_probabilities = ops.log_softened_softmax(
    target_logits, temperature=temperature
  )
  excluded = log_probabilities == -jnp.inf
  information = jnp.where(excluded, 0.0, -log_probabilities)
  return jnp.sum(jnp.exp(log_probabilities) * information, -1)


@ops.validate
def information_maximization_loss(
  target_logits: Float[Array, "batch classes"],
  *,
  diversity_weight: ArrayLike = 1.0,
  temperature: ArrayLike = 1.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Information maximization (IM, SHOT): confident and diverse predictions.

  .. math::
    \ell = \operatorname{mean}_i H(p_i)
           - \lambda H(\operatorname{mean}_i p_i), \qquad
    H(p) = -\sum_c p_c \log p_c

  For lambda = 1 it is minus the mutual information of inputs and predictions.

  Args:
    target_logits: `[batch, classes]`; a class at -inf is masked.
    diversity_weight: lambda. May be traced.
    temperature: T > 0. May be traced.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch; the mean
      prediction is computed over the whole batch.

  Returns:
    A scalar; 0 with gradient 0 if all examples are masked. Published weight: 1,
    beside 0.3 times the cross-entropy with pseudo-labels.

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  SHOT adds 1e-5 to each probability inside the logarithms; see `entropy_loss`.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> information_maximization_loss(sure)
    Array(-0.6931472, dtype=float32)
    >>> information_maximization_loss(sure, diversity_weight=0.0)
    Array(0., dtype=float32)

  References:
    Liang, Hu and Feng, `Do we really need to access the source data?
    <https://arxiv.org/abs/2002.08546>`_, 2020.
  """
  logits, mask = ops.masked_rows(target_logits, where)
  entropies = entropy_loss(logits, temperature=temperature)
  probabilities = ops.softened_softmax(logits, temperature=temperature)
  sums, count = ops.sum_over_devices(
    (jnp.sum(mask[:, None] * probabilities, 0), jnp.sum(mask)), axis_name
  )
  mean = sums / jnp.maximum(count, 1)
  # Subnormal means are flushed to 0, where the logarithm is -inf.
  absent = mean < jnp.finfo(mean.dtype).tiny
  information = -jnp.log(jnp.where(absent, 1.0, mean))
  weight = ops.as_number("diversity_weight", diversity_weight, mean.dtype)
  return ops.masked_mean(
    entropies, where, axis_name=axis_name
  ) - weight * jnp.sum(mean * information)


@ops.validate
def class_balance_loss(
  target_probabilities: Float[Array, "batch classes"],
  *,
  epsilon: ArrayLike = 1e-6,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Class balance (MCD): moves the mean prediction to the uniform one.

  .. math::
    \ell = -\operatorname*{mean}_c \log(\operatorname*{mean}_i p_{ic}
      + \epsilon)

  The authors' code calls it entropy. Its minimum is log C, at a uniform mean
  prediction.

  Args:
    target_probabilities: `[batch, classes]`, of one of MCD's classifiers.
    epsilon: > 0. May be traced.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; 0 with gradient 0 if all examples are masked. Published weight:
    0.01 in MCD's first two steps (TLlib; 0.03 for digits).

  Raises:
    TypeError: if the probabilities are not floating-point.

  Examples:
    >>> print(f"{class_balance_loss(jnp.eye(2)):.4f}")
    0.6931

  References:
    Saito et al., `Maximum classifier discrepancy
    <https://arxiv.org/abs/1712.02560>`_, 2018, appendix.
  """
  rows, mask = ops.masked_rows(target_probabilities, where)
  sums, count = ops.sum_over_devices(
    (jnp.sum(rows, 0), jnp.sum(mask)), axis_name
  )
  ops.check_range("epsilon", epsilon, 0.0, math.inf)
  epsilon = ops.as_number("epsilon", epsilon, rows.dtype)
  value = -jnp.mean(jnp.log(sums / jnp.maximum(count, 1) + epsilon))
  return jnp.where(count > 0, value, 0.0)


def entropy_weight(
  probabilities: Float[Array, "batch classes"],
) -> Float[Array, " batch"]:
  """Returns 1 + exp(-H) for each row, without gradient, as in CDAN and MCC."""
  probabilities = probabilities.astype(ops.compute_dtype(probabilities))
  entropy = -jnp.sum(probabilities * jnp.log(probabilities + 1e-5), -1)
  return jax.lax.stop_gradient(1 + jnp.exp(-entropy))
