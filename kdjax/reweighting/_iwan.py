"""Importance-weighted adversarial networks (IWAN)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.reweighting._domain_discriminator import weights_from_logits


@ops.validate
def iwan_weights(
  source_domain_logits: Float[Array, " source"] | Float[Array, "source 1"],
  *,
  epsilon: ArrayLike = 1e-5,
  where: Bool[Array, " source"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Importance-weighted adversarial nets (IWAN): weights of source rows.

  .. math::
    \tilde w_i = 1 - D(s_i), \qquad
    w_i = \frac{\tilde w_i}{\operatorname{mean}_k \tilde w_k + \epsilon}

  where D = sigmoid(z) is the auxiliary discriminator's probability of the
  *source*. Source rows that look like target rows get large weights. 1 - D
  estimates p_T / (p_S + p_T), which is bounded, instead of the ratio p_T / p_S
  of `discriminator_weights`.

  Args:
    source_domain_logits: z, `[source]` or `[source, 1]`, positive for the
      source, as in `dann_loss`.
    epsilon: >= 0; keeps the quotient finite. TLlib: 1e-5.
    where: mask of the source rows; masked rows get weight 0.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `[source]`, not negative, of mean 1 (slightly below by epsilon), without
    gradient. They are the weights of the source term in the loss of the second
    discriminator. If D is 1 for all rows, all weights are 0, as published; with
    epsilon = 0 their mean stays 1.

  Raises:
    ValueError: if a static epsilon is negative.

  Examples:
    >>> weights = iwan_weights(jnp.array([0.0, 20.0]))
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['2.00', '0.00']

  References:
    Zhang et al., `Importance weighted adversarial nets for partial domain
    adaptation <https://arxiv.org/abs/1803.09210>`_, 2018, equation 8.
  """
  ops.check_range("epsilon", epsilon, 0.0, float("inf"))
  logits, mask = ops.masked_rows(source_domain_logits.reshape(-1), where)
  epsilon = ops.as_number("epsilon", epsilon, logits.dtype)
  logits = jax.lax.stop_gradient(logits)
  values = mask * jax.nn.sigmoid(-logits)
  sums, count = ops.sum_over_devices(
    (jnp.sum(values), jnp.sum(mask)), axis_name
  )
  mean = sums / jnp.maximum(count, 1) + epsilon
  # For epsilon = 0, weights below the least number keep their mean of 1.
  bare = weights_from_logits(jax.nn.softplus(logits), mask, axis_name)
  return jnp.where(epsilon > 0, values / jnp.where(mean > 0, mean, 1.0), bare)
