"""Domain adaptive ensemble learning (DAEL): the loss on the target."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def dael_loss(
  strong_logits: Float[Array, "experts batch classes"],
  weak_logits: Float[Array, "experts batch classes"],
  *,
  threshold: ArrayLike = 0.95,
  epsilon: ArrayLike = 1e-5,
) -> Float[Array, " batch"]:
  r"""Domain adaptive ensemble learning (DAEL): loss on the target.

  .. math::
    \ell_i = -\mathbb 1[\max_c q^{e}_{ic} \ge \tau]
      \log\Bigl(\operatorname*{mean}_k p^k_{i \hat y} + \epsilon\Bigr), \qquad
    (e, \hat y) = \operatorname*{argmax}_{k, c} q^k_{ic}

  with p and q the experts' predictions for the strongly and the weakly
  augmented view of a target example, and one expert for each source domain. The
  most confident expert gives the pseudo-label of the ensemble. Add the source
  losses `generalization.dael_expert_loss` and
  `generalization.dael_consistency_loss`. At test time, average the
  probabilities of the experts.

  Args:
    strong_logits: `[experts, batch, classes]`, of the strong view; they get
      gradient.
    weak_logits: `[experts, batch, classes]`, of the weak view; no gradient.
    threshold: tau in [0, 1], the least confidence of a pseudo-label. May be
      traced.
    epsilon: > 0; bounds the loss, at 11.5 by default. May be traced.

  Returns:
    One value an example, 0 without a confident expert. The published loss is
    the mean over the WHOLE batch, times 0.5, plus the two source losses times 1
    (Dassl).

  Raises:
    ValueError: if the shapes differ or a static number is out of range.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> weak = jnp.array([[[4.0, 0.0]], [[0.0, 1.0]]])  # First expert: 0.98.
    >>> print(f"{dael_loss(0 * weak, weak)[0]:.4f}")
    0.6931

  References:
    Zhou et al., `Domain adaptive ensemble learning
    <https://arxiv.org/abs/2003.07325>`_, 2021.
  """
  ops.check_positive("epsilon", epsilon)
  weak = ops.softened_softmax(jax.lax.stop_gradient(weak_logits))
  best = ops.largest(weak, 0)
  # The class of the largest probability over all experts is the class of the
  # most confident expert.
  labels = jnp.argmax(best, -1)
  confidence = ops.largest(best, -1)
  confident = confidence >= ops.as_fraction("threshold", threshold, best.dtype)
  ensemble = jnp.mean(ops.softened_softmax(strong_logits), 0)
  own = jnp.take_along_axis(ensemble, labels[:, None], -1)[:, 0]
  values = -jnp.log(own + ops.as_number("epsilon", epsilon, own.dtype))
  return ops.keep_nan(jnp.where(confident, values, 0), confidence)
