"""Debiased self-training (DST)."""

import math

from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.adaptation.adversarial._mdd import mdd_loss


@ops.validate
def dst_loss(
  labeled_logits: Float[Array, "labeled classes"],
  labeled_worst_logits: Float[Array, "labeled classes"],
  unlabeled_logits: Float[Array, "unlabeled classes"],
  unlabeled_worst_logits: Float[Array, "unlabeled classes"],
  *,
  eta: ArrayLike = 2.0,
  epsilon: ArrayLike = 1e-6,
  where_labeled: Bool[Array, " labeled"] | None = None,
  where_unlabeled: Bool[Array, " unlabeled"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Debiased self-training (DST): loss of the worst-case head.

  .. math::
    \ell = -\eta' \operatorname*{mean}_{i \in L} \log p'_{\hat y_i}(x_i)
      - \operatorname*{mean}_{j \in U}
        \log \min(1 - p'_{\hat y_j}(x_j) + \epsilon, 1)

  The worst-case head p' agrees with the main head on labeled data and disagrees
  as much as possible on unlabeled data: it estimates the largest error
  of pseudo-labels. The features minimize this disagreement, through a gradient
  reversal before the head. The loss is `mdd_loss` with labeled and unlabeled
  examples of one domain as source and target.

  Args:
    labeled_logits: `[labeled, classes]`, of the main head. Only their arg max
      is used; no gradient.
    labeled_worst_logits: `[labeled, classes]`, of the worst-case head.
    unlabeled_logits: `[unlabeled, classes]`, of the main head; no gradient.
    unlabeled_worst_logits: `[unlabeled, classes]`, of the worst-case head.
    eta: eta'. May be traced.
    epsilon: >= 0, as in `mdd_loss`. May be traced.
    where_labeled: mask of the labeled examples.
    where_unlabeled: mask of the unlabeled examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar. Published: weight 1 with eta' = 2 and a reversal that rises from 0
    to 0.1. `fixmatch_loss` with threshold 0.7 trains a third head, the pseudo
    head.

  Raises:
    ValueError: if shapes differ.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> agree, differ = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> print(f"{dst_loss(agree, agree, agree, differ):.3f}")
    0.000

  References:
    Chen et al., `Debiased self-training for semi-supervised learning
    <https://arxiv.org/abs/2202.07136>`_, 2022.
  """
  ops.check_range("eta", eta, 0.0, math.inf)
  return mdd_loss(
    labeled_logits,
    labeled_worst_logits,
    unlabeled_logits,
    unlabeled_worst_logits,
    margin=eta,
    epsilon=epsilon,
    where_source=where_labeled,
    where_target=where_unlabeled,
    axis_name=axis_name,
  )
