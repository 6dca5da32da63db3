"""Group distributionally robust optimization (Group DRO)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.exportable
class GroupDRO(NamedTuple):
  """The result of `group_dro`.

  Attributes:
    loss: a scalar to minimize.
    weights: `[domains]`, the state for the next step, of sum 1 and without
      gradient.

  References:
    Sagawa et al., `Distributionally robust neural networks
    <https://arxiv.org/abs/1911.08731>`_, 2020.
  """

  loss: Float[Array, ""]
  weights: Float[Array, " domains"]


@ops.validate
def group_dro(
  losses: Float[Array, " domains"],
  weights: Float[Array, " domains"],
  step_size: ArrayLike = 1e-2,
  *,
  where: Bool[Array, " domains"] | None = None,
) -> GroupDRO:
  r"""Group distributionally robust optimization (Group DRO): weighted losses.

  .. math::
    q_d \leftarrow \frac{q_d\, e^{\eta \ell_d}}{\sum_k q_k e^{\eta \ell_k}},
    \qquad \ell = \sum_d q_d \ell_d

  Domains with a high loss gain weight. The weights are updated before they
  weigh the losses, as in the paper's algorithm 1.

  Args:
    losses: `[domains]`, the mean loss of each domain (`domain_losses`).
    weights: `[domains]`, q of the previous step, at first
      `jnp.ones(domains) / domains`. Any positive sum will do; a weight of 0
      stays 0.
    step_size: eta. May be traced.
    where: `[domains]`, True for the domains in the batch. Other domains keep
      their weights, except for the normalization. The loss normalizes the
      weights of the domains in the batch, as in TLlib.

  Returns:
    A `GroupDRO`: the loss and the new, normalized weights. TLlib stores weights
    without normalization: equal results until they overflow. Published step
    size: 0.01 (DomainBed, TLlib); 1 in DeepDG's command line.

  Raises:
    ValueError: if losses and weights differ in length or `step_size` is not a
      scalar.

  Examples:
    >>> step = group_dro(jnp.array([1.0, 2.0]), jnp.ones(2) / 2, 0.5)
    >>> print(f"{step.loss:.4f}", step.weights.round(4))
    1.6225 [0.3775 0.6225]

  References:
    Sagawa et al., `Distributionally robust neural networks for group shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020, algorithm 1.
  """
  losses, mask = ops.masked_rows(losses, where, axes=2)
  weights = jax.lax.stop_gradient(weights.astype(ops.compute_dtype(weights)))
  rate = ops.as_number("step_size", step_size, losses.dtype)
  positive = ~(weights <= 0)  # True for NaN, which must reach the caller
  logs = jnp.log(jnp.where(positive, weights, 1.0))
  logs += rate * jax.lax.stop_gradient(losses)
  logs = jax.lax.stop_gradient(jnp.where(positive, logs, -jnp.inf))
  updated = jax.nn.softmax(logs)
  share = updated * mask
  sums = jnp.sum(share)
  share = share / jnp.where(sums == 0, 1.0, sums)
  return GroupDRO(jnp.sum(share * losses), updated)
