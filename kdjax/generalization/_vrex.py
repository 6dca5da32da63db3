"""Variance risk extrapolation (V-REx)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def vrex_penalty(
  losses: Float[Array, " domains"],
  *,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Variance risk extrapolation (V-REx): the variance of the domains' losses.

  .. math::
    \operatorname*{mean}_d (\ell_d - \bar \ell)^2, \qquad
    \bar \ell = \operatorname*{mean}_d \ell_d

  Args:
    losses: `[domains]`, the mean loss of each domain (`domain_losses`).
    where: `[domains]`, True for the domains to use.
    axis_name: the mapped axis that holds the other domains, if any.

  Returns:
    A scalar. The variance divides by the number of domains, not by one less, as
    in all published implementations. Published weight, next to the mean of the
    losses: 1 for the first 500 steps, then 10 with a newly initialized Adam
    (DomainBed) or 3 (TLlib).

  Raises:
    ValueError: if `losses` is not a vector.

  Examples:
    >>> vrex_penalty(jnp.array([1.0, 3.0]))
    Array(1., dtype=float32)

  References:
    Krueger et al., `Out-of-distribution generalization via risk extrapolation
    <https://arxiv.org/abs/2003.00688>`_, 2021.
  """
  values, mask = ops.masked_rows(losses, where, axes=2)
  count, losses_sum = ops.sum_over_devices(
    (jnp.sum(mask), jnp.sum(values)), axis_name
  )
  count = jnp.maximum(count, 1)
  squares = mask * jnp.square(values - losses_sum / count)
  return ops.sum_over_devices(jnp.sum(squares), axis_name) / count
