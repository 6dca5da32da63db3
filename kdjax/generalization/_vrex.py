"""Variance of risks (V-REx)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import masked_rows
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
def vrex_penalty(
  losses: Float[Array, " domains"],
  *,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Variance risk extrapolation (V-REx) penalty: equal losses everywhere.

  .. math::
    \operatorname*{mean}_d (\ell_d - \bar \ell)^2, \qquad
    \bar \ell = \operatorname*{mean}_d \ell_d

  Args:
    losses: `[domains]`, each domain's mean loss (`domain_losses`).
    where: `[domains]`, which domains are in the batch.
    axis_name: the mapped axis that holds the other domains, if any.

  Returns:
    A scalar, the variance over the number of domains, not one less, as in all
    published codes. Published weight beside the mean of the losses: 1 for the
    first 500 steps, then 10 (DomainBed, which starts a new Adam at that step)
    or 3 (TLlib).

  Raises:
    ValueError: if `losses` is not a vector.

  Examples:
    >>> vrex_penalty(jnp.array([1.0, 3.0]))
    Array(1., dtype=float32)

  References:
    Krueger et al., `Out-of-distribution generalization via risk extrapolation
    <https://arxiv.org/abs/2003.00688>`_, 2021.
  """
  values, mask = masked_rows(losses, where, axes=2)
  count, losses_sum = sum_over_devices(
    (jnp.sum(mask), jnp.sum(values)), axis_name
  )
  count = jnp.maximum(count, 1)
  squares = mask * jnp.square(values - losses_sum / count)
  return sum_over_devices(jnp.sum(squares), axis_name) / count
