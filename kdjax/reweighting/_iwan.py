"""Importance-weighted adversarial networks (IWAN)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import check_range
from kdjax.ops import masked_rows
from kdjax.ops import sum_over_devices
from kdjax.ops import validate
from kdjax.reweighting._domain_discriminator import weights_from_logits


@validate
def iwan_weights(
  source_domain_logits: Float[Array, " source"] | Float[Array, "source 1"],
  *,
  eps: ArrayLike = 1e-5,
  where: Bool[Array, " source"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Importance-weighted adversarial nets (IWAN): weights of the source rows.

  .. math::
    \tilde w_i = 1 - D(s_i), \qquad
    w_i = \frac{\tilde w_i}{\operatorname{mean}_k \tilde w_k + \epsilon}

  where D = sigmoid(z) is the auxiliary discriminator's probability of the
  *source*: what it takes for target counts. This is p_T / (p_S + p_T), which
  is bounded, not the ratio p_T / p_S of `discriminator_weights`.

  Args:
    source_domain_logits: z, `[source]` or `[source, 1]`; source is positive,
      as in `dann_loss`.
    eps: keeps the quotient finite. TLlib: 1e-5.
    where: which source rows count; the others get weight 0.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `[source]`, not negative, of mean 1 (less eps' share), without gradient.
    They weigh the source's term of the second discriminator's loss. If the
    discriminator is sure of every row, all weights vanish, as published; with
    eps = 0 they keep their mean of 1.

  Raises:
    ValueError: if a static eps is negative.

  Examples:
    >>> weights = iwan_weights(jnp.array([0.0, 20.0]))
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['2.00', '0.00']

  References:
    Zhang et al., `Importance weighted adversarial nets for partial domain
    adaptation <https://arxiv.org/abs/1803.09210>`_, 2018, equation 8.
  """
  check_range("eps", eps, 0.0, float("inf"))
  logits, mask = masked_rows(source_domain_logits.reshape(-1), where)
  eps = as_number("eps", eps, logits.dtype)
  logits = jax.lax.stop_gradient(logits)
  values = mask * jax.nn.sigmoid(-logits)
  sums, count = sum_over_devices((jnp.sum(values), jnp.sum(mask)), axis_name)
  mean = sums / jnp.maximum(count, 1) + eps
  # Without eps even weights too small for a number keep their mean of 1.
  bare = weights_from_logits(jax.nn.softplus(logits), mask, axis_name)
  return jnp.where(eps > 0, values / jnp.where(mean > 0, mean, 1.0), bare)
