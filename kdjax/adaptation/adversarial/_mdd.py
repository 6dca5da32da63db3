"""Margin disparity discrepancy (MDD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import cross_entropy
from kdjax.ops import log_softened_softmax
from kdjax.ops import masked_mean
from kdjax.ops import masked_rows
from kdjax.ops import safe_abs
from kdjax.ops import validate


@validate
def mdd_loss(
  source_logits: Float[Array, "source classes"],
  source_adversarial_logits: Float[Array, "source classes"],
  target_logits: Float[Array, "target classes"],
  target_adversarial_logits: Float[Array, "target classes"],
  *,
  margin: ArrayLike = 4.0,
  shift: ArrayLike = 1e-6,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Margin disparity discrepancy (MDD), as the adversarial head minimizes it.

  .. math::
    \ell = -\gamma \operatorname*{mean}_{i \in S}
        \log p'_{\hat y_i}(x_i)
      - \operatorname*{mean}_{j \in T}
        \log \min(1 - p'_{\hat y_j}(x_j) + \epsilon, 1)

  with p' the adversarial head's probabilities and y-hat the main head's
  prediction: agree on the source, disagree on the target. Add it to the
  classification loss and reverse the gradient between the features and the
  adversarial head, so that the features lessen the disagreement.

  Args:
    source_logits: `[source, classes]`, the main head's. They only choose the
      class: no gradient.
    source_adversarial_logits: `[source, classes]`, the adversarial head's.
    target_logits: `[target, classes]`, the main head's; no gradient.
    target_adversarial_logits: `[target, classes]`.
    margin: gamma, the exponential of the paper's margin rho. May be traced.
    shift: epsilon >= 0, as in TLlib; it bounds an example's term by 13.8, and
      takes its gradient away where the head is sure. The authors' own code
      takes 1e-15 as the least 1 - p'; 0 is the formula. May be traced.
    where_source: which source examples count.
    where_target: which target examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; a domain without example adds 0 with gradient 0. Published
    weight: 1, with gamma = 4, and a reversal that rises from 0 to 0.1. TLlib's
    module returns minus this value, and its training script negates that.

  Raises:
    ValueError: if shapes disagree.
    TypeError: if the logits are not floating-point.

  skada's target term gathers an N x N matrix by mistake; not so here.

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
  source, _ = masked_rows(source_adversarial_logits, where_source)
  target, _ = masked_rows(target_adversarial_logits, where_target)
  agreement = cross_entropy(source, jnp.argmax(source_logits, -1))
  shift = as_number("shift", shift, target.dtype)
  log_rest = log_of_others(target, jnp.argmax(target_logits, -1))
  disagreement = -jnp.minimum(jnp.logaddexp(log_rest, jnp.log(shift)), 0.0)
  return as_number("margin", margin, agreement.dtype) * masked_mean(
    agreement, where_source, axis_name=axis_name
  ) + masked_mean(disagreement, where_target, axis_name=axis_name)


@validate
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

  with y' the adversarial head's predictions: agree on the source, disagree on
  the target. See `mdd_loss`.

  Args:
    source_predictions: `[source, outputs]`, the main head's; no gradient.
    source_adversarial_predictions: of the same shape.
    target_predictions: `[target, outputs]`; no gradient.
    target_adversarial_predictions: of the same shape.
    margin: gamma. May be traced.
    where_source: which source examples count.
    where_target: which target examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, signed. Published weight: 1 with gamma = 1 (TLlib, which negates
    its module's value).

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
    main, _ = masked_rows(main, where)
    adversarial, _ = masked_rows(adversarial, where)
    distance = safe_abs(adversarial - jax.lax.stop_gradient(main))
    return masked_mean(distance, where, axis_name=axis_name)

  source = gap(source_predictions, source_adversarial_predictions, where_source)
  target = gap(target_predictions, target_adversarial_predictions, where_target)
  return as_number("margin", margin, source.dtype) * source - target


def log_of_others(
  logits: Float[Array, "*batch classes"], labels: Array
) -> Float[Array, "*batch"]:
  """Returns log(1 - p_label), with all its digits where p is near 1."""
  own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(own, -jnp.inf, log_softened_softmax(logits))
  alone = jnp.max(others, -1) == -jnp.inf
  others = jax.nn.logsumexp(jnp.where(alone[..., None], 0.0, others), -1)
  return jnp.where(alone, -jnp.inf, others)
