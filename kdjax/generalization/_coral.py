"""CORAL over all pairs of domains."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import check_choice
from kdjax.ops import masked_rows
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
def coral(
  features: Float[Array, "domains batch dims"],
  *,
  scaling: str = "mean",
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Correlation alignment (CORAL) over all pairs of domains.

  .. math::
    \operatorname*{mean}_{d < e} \Bigl[
      \operatorname*{mean}_{jk} (C_d - C_e)_{jk}^2
      + \operatorname*{mean}_j (\mu_d - \mu_e)_j^2 \Bigr]

  with covariances over n - 1. The mean over pairs is twice the variance over
  domains, so the cost does not grow with the square of their number.

  Args:
    features: `[domains, batch, dims]`; a domain with fewer rows is padded.
    scaling: "mean", the formula above, as in DomainBed, TLlib and DeepDG;
      "paper" has no term of means and a quarter of the other, as
      `kdjax.adaptation.coral_loss` by default.
    where: `[domains, batch]`, which rows count. A domain without any is left
      out of the pairs.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    A scalar; 0 for fewer than two domains. The covariance of a single row is
    taken as 0, where published codes divide by 0. Published weight: 1.

  Raises:
    ValueError: if the mask's shape is not that of the rows, or `scaling` is
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
  check_choice("scaling", scaling, ("mean", "paper"))
  rows, mask = masked_rows(features, where, axes=2)
  counts, sums = sum_over_devices(
    (jnp.sum(mask, 1), jnp.sum(rows, 1)), axis_name
  )
  present = (counts > 0).astype(rows.dtype)
  means = sums / jnp.maximum(counts, 1)[:, None]
  centred = mask[:, :, None] * (rows - means[:, None])
  products = jnp.einsum(
    "dbj,dbk->djk", centred, centred, precision=jax.lax.Precision.HIGHEST
  )
  products = sum_over_devices(products, axis_name)
  covariances = products / jnp.maximum(counts - 1, 1)[:, None, None]
  value = _spread(covariances, present)
  if scaling == "paper":
    return value / 4
  return value + _spread(means, present)


def _spread(
  moments: Float[Array, "domains ..."], present: Float[Array, " domains"]
) -> Float[Array, ""]:
  """Returns the mean squared difference over pairs of domains that exist."""
  moments = moments.reshape(moments.shape[0], -1)
  count = jnp.sum(present)
  centre = jnp.sum(present[:, None] * moments, 0) / jnp.maximum(count, 1)
  squares = present[:, None] * jnp.square(moments - centre[None])
  return 2 * jnp.mean(jnp.sum(squares, 0)) / jnp.maximum(count - 1, 1)
