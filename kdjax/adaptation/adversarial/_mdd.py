"""Margin disparity discrepancy (MDD)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def mdd_loss(
  source_logits: Float[Array, "source classes"],
  source_adversarial_logits: Float[Array, "source classes"],
  target_logits: Float[Array, "target classes"],
  target_adversarial_logits: Float[Array, "target classes"],
  *,
  margin: ArrayLike = 4.0,
  epsilon: ArrayLike = 1e-6,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Margin disparity discrepancy (MDD): loss of the adversarial head.

  .. math::
    \ell = -\gamma \operatorname*{mean}_{i \in S}
        \log p'_{\hat y_i}(x_i)
      - \operatorname*{mean}_{j \in T}
        \log \min(1 - p'_{\hat y_j}(x_j) + \epsilon, 1)

  with p' the probabilities of the adversarial head and y-hat the class that the
  main head predicts. The adversarial head learns to agree with the main head on
  the source and to disagree on the target. Add this loss to the classification
  loss and reverse the gradient between the features and the adversarial head,
  so that the features reduce the disagreement.

  Args:
    source_logits: `[source, classes]`, of the main head. Only their arg max is
      used; no gradient.
    source_adversarial_logits: `[source, classes]`, of the adversarial head.
    target_logits: `[target, classes]`, of the main head; no gradient.
    target_adversarial_logits: `[target, classes]`, of the adversarial head.
    margin: gamma, the exponential of the paper's margin rho. May be traced.
    epsilon: >= 0; 0 is the paper's formula. The default is TLlib's, which
      bounds the term of an example by 13.8 and removes its gradient where the
      head is confident. The authors' code has at least 1e-15 for 1 - p'. May be
      traced.
    where_source: mask of the source examples.
    where_target: mask of the target examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; a domain without examples adds 0 with gradient 0. Published
    weight: 1, with gamma = 4, and a reversal that rises from 0 to 0.1. TLlib's
    module returns minus this value, and its training script negates it again.

  Raises:
    ValueError: if shapes disagree.
    TypeError: if the logits are not floating-point.

  In skada's code the target term is an N x N matrix by mistake.

  Examples:
    >>> agree, differ = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> print(f"{mdd_loss(agree, agree, agree, differ):.3f}")
    0.000
    >>> print(f"{mdd_loss(agree, agree, agree, agree):.3f}")
    13.816

  References:
    Zhang et al., `Bridging theory and algorithm for domain adaptation
    <https://arxiv.org/abs/1904.05801>`_, 2019.
  """
  ops.check_range("margin", margin, 0.0, math.inf)
  ops.check_range("epsilon", epsilon, 0.0, math.inf)
  source, _ = ops.masked_rows(source_adversarial_logits, where_source)
  target, _ = ops.masked_rows(target_adversarial_logits, where_target)
  agreement = ops.cross_entropy(source, jnp.argmax(source_logits, -1))
  epsilon = ops.as_number("epsilon", epsilon, target.dtype)
  log_rest = log_of_others(target, jnp.argmax(target_logits, -1))
  disagreement = -ops.at_most(jnp.logaddexp(log_rest, jnp.log(epsilon)), 0.0)
  # The labels of NaN logits are not NaN.
  agreement = ops.keep_nan(agreement, source_logits)
  disagreement = ops.keep_nan(disagreement, target_logits)
  return ops.as_number("margin", margin, agreement.dtype) * ops.masked_mean(
    agreement, where_source, axis_name=axis_name
  ) + ops.masked_mean(disagreement, where_target, axis_name=axis_name)


@ops.validate
def mdd_regression_loss(
  source_predictions: Float[Array, "source outputs"],
  source_adversarial_predictions: Float[Array, "source outputs"],
  target_predictions: Float[Array, "target outputs"],
  target_adversarial_predictions: Float[Array, "target outputs"],
  *,
  margin: ArrayLike = 1.0,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Margin disparity discrepancy (MDD) for regression.

  .. math::
    \ell = \gamma \operatorname*{mean}_{S} |y' - y|
      - \operatorname*{mean}_{T} |y' - y|

  with y' the predictions of the adversarial head. See `mdd_loss`.

  Args:
    source_predictions: `[source, outputs]`, of the main head; no gradient.
    source_adversarial_predictions: `[source, outputs]`, of the adversarial
      head.
    target_predictions: `[target, outputs]`, of the main head; no gradient.
    target_adversarial_predictions: `[target, outputs]`, of the adversarial
      head.
    margin: gamma. May be traced.
    where_source: mask of the source examples.
    where_target: mask of the target examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar of either sign. Published weight: 1 with gamma = 1 (TLlib, whose
    module returns minus this value).

  Raises:
    ValueError: if shapes disagree.
    TypeError: if the predictions are not floating-point.

  Examples:
    >>> main, other = jnp.zeros((2, 1)), jnp.ones((2, 1))
    >>> mdd_regression_loss(main, main, main, other)
    Array(-1., dtype=float32)

  References:
    Zhang et al., `Bridging theory and algorithm for domain adaptation
    <https://arxiv.org/abs/1904.05801>`_, 2019.
  """

  def gap(
    main: Array, adversarial: Array, where: Bool[Array, " batch"] | None
  ) -> Array:
    main, _ = ops.masked_rows(main, where)
    adversarial, _ = ops.masked_rows(adversarial, where)
    distance = ops.safe_abs(adversarial - jax.lax.stop_gradient(main))
    return ops.masked_mean(distance, where, axis_name=axis_name)

  ops.check_range("margin", margin, 0.0, math.inf)
  source = gap(source_predictions, source_adversarial_predictions, where_source)
  target = gap(target_predictions, target_adversarial_predictions, where_target)
  return ops.as_number("margin", margin, source.dtype) * source - target


def log_of_others(
  logits: Float[Array, "*batch classes"], labels: Array
) -> Float[Array, "*batch"]:
  """Returns log(1 - p_label), exact also where p is near 1."""
  own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(own, -jnp.inf, ops.log_softened_softmax(logits))
  alone = jnp.all(others == -jnp.inf, -1)
  others = jax.nn.logsumexp(jnp.where(alone[..., None], 0.0, others), -1)
  return jnp.where(alone, -jnp.inf, others)
