"""DAEL: what the experts of many sources teach each other on a target."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops import as_fraction
from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import softened_softmax
from kdjax.ops import validate


@validate
def dael_loss(
  strong_logits: Float[Array, "experts batch classes"],
  weak_logits: Float[Array, "experts batch classes"],
  *,
  threshold: ArrayLike = 0.95,
  eps: ArrayLike = 1e-5,
) -> Float[Array, " batch"]:
  r"""Domain adaptive ensemble learning (DAEL): the surest expert teaches all.

  .. math::
    \ell_i = -\mathbb 1[\max_c q^{e}_{ic} \ge \tau]
      \log\Bigl(\operatorname*{mean}_k p^k_{i \hat y} + \epsilon\Bigr), \qquad
    (e, \hat y) = \operatorname*{argmax}_{k, c} q^k_{ic}

  with p and q the experts' predictions for the strongly and the weakly
  augmented view of a target example, one expert a source domain. On the sources
  it stands beside `generalization.dael_expert_loss` and
  `generalization.dael_consistency_loss`; at test time the experts'
  probabilities are averaged.

  Args:
    strong_logits: `[experts, batch, classes]`, of the strong view; they learn.
    weak_logits: `[experts, batch, classes]`, of the weak view; no gradient.
    threshold: tau in [0, 1], the least probability that counts. May be traced.
    eps: bounds the loss, at 11.5. May be traced.

  Returns:
    One value an example, 0 for an unsure one: the published loss is the mean
    over the WHOLE batch, times 0.5, beside the other two times 1 (Dassl).

  Raises:
    ValueError: if the shapes differ or a static number is out of range.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> weak = jnp.array([[[4.0, 0.0]], [[0.0, 1.0]]])  # The first is sure.
    >>> print(f"{dael_loss(0 * weak, weak)[0]:.4f}")
    0.6931

  References:
    Zhou et al., `Domain adaptive ensemble learning
    <https://arxiv.org/abs/2003.07325>`_, 2021.
  """
  check_positive("eps", eps)
  weak = softened_softmax(jax.lax.stop_gradient(weak_logits))
  best = jnp.max(weak, 0)
  # The class in which any expert is surest is the surest expert's own.
  labels = jnp.argmax(best, -1)
  confident = jnp.max(best, -1) >= as_fraction(
    "threshold", threshold, best.dtype
  )
  ensemble = jnp.mean(softened_softmax(strong_logits), 0)
  own = jnp.take_along_axis(ensemble, labels[:, None], -1)[:, 0]
  return jnp.where(
    confident, -jnp.log(own + as_number("eps", eps, own.dtype)), 0
  )
