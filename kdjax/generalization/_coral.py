"""Correlation alignment (CORAL) over all pairs of domains."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def coral(
  features: Float[Array, "domains batch dims"],
  *,
  scaling: str = "mean",
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Correlation alignment (CORAL): aligns the moments of all pairs of domains.

  .. math::
    \operatorname*{mean}_{d < e} \Bigl[
      \operatorname*{mean}_{jk} (C_d - C_e)_{jk}^2
      + \operatorname*{mean}_j (\mu_d - \mu_e)_j^2 \Bigr]

  with means \mu and covariances C, which divide by n - 1. The mean over pairs
  is twice the variance over domains, which costs time linear in their number.

  Args:
    features: `[domains, batch, dims]`. Pad a domain that has fewer rows.
    scaling: "mean" is the formula above, as in DomainBed, TLlib and DeepDG.
      "paper" has no term of the means and a quarter of the covariance term, as
      the default of `kdjax.adaptation.coral_loss`.
    where: `[domains, batch]`, True for the rows to use. A domain without such
      rows is in no pair.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    A scalar; 0 for fewer than two domains. The covariance of a single row is 0;
    published implementations divide by 0 there. Published weight: 1.

  Raises:
    ValueError: if the mask and the features differ in shape, or `scaling` is
      unknown.

  Examples:
    >>> features = jnp.array([[[0.0], [2.0]], [[0.0], [4.0]]])
    >>> coral(features)
    Array(37., dtype=float32)

  References:
    Sun and Saenko, `Deep CORAL <https://arxiv.org/abs/1607.01719>`_, 2016;
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021.
  """
  ops.check_choice("scaling", scaling, ("mean", "paper"))
  rows, mask = ops.masked_rows(features, where, axes=2)
  counts, sums = ops.sum_over_devices(
    (jnp.sum(mask, 1), jnp.sum(rows, 1)), axis_name
  )
  present = (counts > 0).astype(rows.dtype)
  means = sums / jnp.maximum(counts, 1)[:, None]
  centered = mask[:, :, None] * (rows - means[:, None])
  products = jnp.einsum(
    "dbj,dbk->djk", centered, centered, precision=jax.lax.Precision.HIGHEST
  )
  products = ops.sum_over_devices(products, axis_name)
  covariances = products / jnp.maximum(counts - 1, 1)[:, None, None]
  value = _mean_pair_difference(covariances, present)
  if scaling == "paper":
    return value / 4
  return value + _mean_pair_difference(means, present)


def _mean_pair_difference(
  moments: Float[Array, "domains ..."], present: Float[Array, " domains"]
) -> Float[Array, ""]:
  """Returns the mean squared difference over all pairs of present domains."""
  moments = moments.reshape(moments.shape[0], -1)
  count = jnp.sum(present)
  center = jnp.sum(present[:, None] * moments, 0) / jnp.maximum(count, 1)
  squares = present[:, None] * jnp.square(moments - center[None])
  return 2 * jnp.mean(jnp.sum(squares, 0)) / jnp.maximum(count - 1, 1)
