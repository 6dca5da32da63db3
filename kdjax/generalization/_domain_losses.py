"""The mean loss of each domain."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def domain_losses(
  losses: Float[Array, "domains batch"],
  *,
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " domains"]:
  r"""Domain losses: averages the losses of each domain.

  .. math:: \ell_d = \operatorname{mean}_{i \in d} \ell_{di}

  The mean of these is empirical risk minimization (ERM) with equal weights for
  domains. DomainBed's ERM is the mean over all examples,
  `ops.masked_mean(losses, where)`. The two differ if domains have different
  numbers of examples.

  Args:
    losses: `[domains, batch]`, one value an example. Pad a domain that has
      fewer examples.
    where: `[domains, batch]`, True for the examples to use.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    `[domains]`; 0 with gradient 0 for a domain without examples.

  Raises:
    ValueError: if losses and mask differ in shape.

  Examples:
    >>> domain_losses(jnp.array([[1.0, 3.0], [5.0, 5.0]]))
    Array([2., 5.], dtype=float32)

  References:
    Vapnik, `Principles of risk minimization for learning theory
    <https://proceedings.neurips.cc/paper/1991/hash/ff4d5fbbafdf976cfdc032e3bde78de5-Abstract.html>`_,
    1991; Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021.
  """
  values, mask = ops.masked_rows(losses, where, axes=2)
  sums, counts = ops.sum_over_devices(
    (jnp.sum(values, 1), jnp.sum(mask, 1)), axis_name
  )
  return sums / jnp.maximum(counts, 1)
