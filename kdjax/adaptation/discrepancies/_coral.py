"""Correlation alignment (CORAL) as a loss."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def coral_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  scaling: str = "paper",
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Correlation alignment (CORAL): distance between the covariances.

  .. math::
    \ell_{\text{paper}} = \frac{\lVert C_S - C_T \rVert_F^2}{4 d^2}, \qquad
    \ell_{\text{mean}} = \operatorname{mean}_{jk} (C_S - C_T)_{jk}^2
      + \operatorname{mean}_j (\mu_S - \mu_T)_j^2

  with covariances over n - 1. Published codes scale the loss in four ways, so a
  weight of one code does not fit another:

  - "paper": the paper, transferlearning's CORAL, DeepDA, pytorch-adapt, skada;
  - "mean": DomainBed, TLlib, DeepDG (4 times the covariance term, plus the
    distance between the means);
  - adapt: the mean of (C_S - C_T)^2 / 4, equal to "paper", with the distance
    between the means as an option;
  - DomainBed and TLlib for several domains: the average over pairs of domains.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    scaling: "paper" or "mean".
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; the moments
      are computed over the whole batch.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no rows. The covariance of a
    single row is 0. Published weight: 1, chosen so that this loss and the
    classification loss are about equal at the end of training.

  Raises:
    ValueError: if the widths differ or `scaling` is unknown.

  Examples:
    >>> source = jnp.array([[0.0], [2.0]])
    >>> coral_loss(source, 2.0 * source)
    Array(9., dtype=float32)

  References:
    Sun and Saenko, `Deep CORAL <https://arxiv.org/abs/1607.01719>`_, 2016.
  """
  ops.check_choice("scaling", scaling, ("paper", "mean"))
  n_source, mean_source, covariance_source = ops.mean_and_covariance(
    source, where_source, axis_name
  )
  n_target, mean_target, covariance_target = ops.mean_and_covariance(
    target, where_target, axis_name
  )
  value = jnp.mean(jnp.square(covariance_source - covariance_target))
  if scaling == "paper":
    value = value / 4
  else:
    value = value + jnp.mean(jnp.square(mean_source - mean_target))
  return jnp.where(jnp.minimum(n_source, n_target) > 0, value, 0.0)
