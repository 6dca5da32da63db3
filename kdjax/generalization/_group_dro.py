"""Weights that follow the worst domain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import compute_dtype
from kdjax.ops import masked_rows
from kdjax.ops import validate


class GroupDRO(NamedTuple):
  """The weighted loss, and the weights for the next step.

  Attributes:
    loss: a scalar, to be minimized.
    weights: `[domains]`, the state; they add up to 1 and have no gradient.

  References:
    Sagawa et al., `Distributionally robust neural networks
    <https://arxiv.org/abs/1911.08731>`_, 2020.
  """

  loss: Float[Array, ""]
  weights: Float[Array, " domains"]


@validate
def group_dro(
  losses: Float[Array, " domains"],
  weights: Float[Array, " domains"],
  step_size: ArrayLike = 1e-2,
  *,
  where: Bool[Array, " domains"] | None = None,
) -> GroupDRO:
  r"""Group distributionally robust optimization (Group DRO): the worst domain.

  .. math::
    q_d \leftarrow \frac{q_d\, e^{\eta \ell_d}}{\sum_k q_k e^{\eta \ell_k}},
    \qquad \ell = \sum_d q_d \ell_d

  The weights rise first, then weigh the loss, as in the paper's algorithm 1.

  Args:
    losses: `[domains]`, each domain's mean loss (`domain_losses`).
    weights: `[domains]`, q of the step before, of any positive sum; begin with
      `jnp.ones(domains) / domains`. A weight of 0 stays 0.
    step_size: eta. May be traced.
    where: `[domains]`, which domains are in the batch. The others keep their
      weight (up to the normalization), and the loss is that of those present,
      with weights normalized among them, as in TLlib.

  Returns:
    The loss and the new weights, normalized (TLlib stores the product and
    normalizes on reading, which overflows in the long run and is the same
    until then). Published step size: 0.01 (DomainBed, TLlib); 1 in DeepDG's
    command line.

  Raises:
    ValueError: if losses and weights differ in length or `step_size` is no
      scalar.

  Examples:
    >>> step = group_dro(jnp.array([1.0, 2.0]), jnp.ones(2) / 2, 0.5)
    >>> print(f"{step.loss:.4f}", step.weights.round(4))
    1.6225 [0.3775 0.6225]

  References:
    Sagawa et al., `Distributionally robust neural networks for group shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020, algorithm 1.
  """
  losses, mask = masked_rows(losses, where, axes=2)
  weights = jax.lax.stop_gradient(weights.astype(compute_dtype(weights)))
  rate = as_number("step_size", step_size, losses.dtype)
  positive = weights > 0
  logs = jnp.log(jnp.where(positive, weights, 1.0))
  logs += rate * jax.lax.stop_gradient(losses)
  logs = jax.lax.stop_gradient(jnp.where(positive, logs, -jnp.inf))
  updated = jax.nn.softmax(logs)
  share = updated * mask
  sums = jnp.sum(share)
  share = share / jnp.where(sums > 0, sums, 1.0)
  return GroupDRO(jnp.sum(share * losses), updated)
