"""Debiased self-training (DST)."""

from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.adaptation.adversarial._mdd import mdd_loss
from kdjax.ops import validate


@validate
def dst_loss(
  labeled_logits: Float[Array, "labeled classes"],
  labeled_worst_logits: Float[Array, "labeled classes"],
  unlabeled_logits: Float[Array, "unlabeled classes"],
  unlabeled_worst_logits: Float[Array, "unlabeled classes"],
  *,
  eta: ArrayLike = 2.0,
  shift: ArrayLike = 1e-6,
  where_labeled: Bool[Array, " labeled"] | None = None,
  where_unlabeled: Bool[Array, " unlabeled"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Worst case of debiased self-training (DST).

  .. math::
    \ell = -\eta' \operatorname*{mean}_{i \in L} \log p'_{\hat y_i}(x_i)
      - \operatorname*{mean}_{j \in U}
        \log \min(1 - p'_{\hat y_j}(x_j) + \epsilon, 1)

  A head p' that is right on labeled data and as wrong as it can be elsewhere
  shows how far pseudo-labels may lead astray; the features, behind a gradient
  reversal, learn to leave it no room. It is `mdd_loss` with labeled and
  unlabeled examples of one domain in the places of source and target.

  Args:
    labeled_logits: `[labeled, classes]`, the main head's; they only choose the
      class: no gradient.
    labeled_worst_logits: `[labeled, classes]`, the worst head's.
    unlabeled_logits: `[unlabeled, classes]`, the main head's; no gradient.
    unlabeled_worst_logits: `[unlabeled, classes]`.
    eta: eta'. May be traced.
    shift: epsilon >= 0. May be traced.
    where_labeled: which labeled examples count.
    where_unlabeled: which unlabeled examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar. Published: weight 1 with eta' = 2 and a reversal that rises from
    0 to 0.1; `fixmatch_loss` then trains a third, pseudo head with
    threshold 0.7.

  Raises:
    ValueError: if shapes disagree.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> agree, differ = jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]])
    >>> print(f"{dst_loss(agree, agree, agree, differ):.3f}")
    0.000

  References:
    Chen et al., `Debiased self-training for semi-supervised learning
    <https://arxiv.org/abs/2202.07136>`_, 2022.
  """
  return mdd_loss(
    labeled_logits,
    labeled_worst_logits,
    unlabeled_logits,
    unlabeled_worst_logits,
    margin=eta,
    shift=shift,
    where_source=where_labeled,
    where_target=where_unlabeled,
    axis_name=axis_name,
  )
