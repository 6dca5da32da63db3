"""Deep CORAL: aligned second moments."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import check_choice
from kdjax.ops import mean_and_covariance
from kdjax.ops import validate


@validate
def coral_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  scaling: str = "paper",
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Correlation alignment (CORAL) loss: equal covariances in both domains.

  .. math::
    \ell_{\text{paper}} = \frac{\lVert C_S - C_T \rVert_F^2}{4 d^2}, \qquad
    \ell_{\text{mean}} = \operatorname{mean}_{jk} (C_S - C_T)_{jk}^2
      + \operatorname{mean}_j (\mu_S - \mu_T)_j^2

  with covariances over n - 1. Four scalings are in use, so a weight from one
  code does not suit another:

  - the paper, transferlearning's CORAL, DeepDA, pytorch-adapt, skada: "paper";
  - DomainBed, TLlib, DeepDG: "mean" (4 times the covariance term, and the
    means are aligned too);
  - adapt: the mean of (C_S - C_T)^2 / 4, equal to "paper", with the mean term
    as an option;
  - DomainBed and TLlib over several domains: the average over their pairs.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    scaling: "paper" or "mean".
    where_source: which source rows count.
    where_target: which target rows count.
    axis_name: the mapped axis that holds the rest of the batch; moments are
      those of the whole batch.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no row. The covariance of a
    single row is taken as 0. Published weight: 1, set so that the loss is
    about as large as the classification loss at the end of training.

  Raises:
    ValueError: if the widths differ or `scaling` is unknown.

  Examples:
    >>> source = jnp.array([[0.0], [2.0]])
    >>> coral_loss(source, 2.0 * source)
    Array(9., dtype=float32)

  References:
    Sun and Saenko, `Deep CORAL <https://arxiv.org/abs/1607.01719>`_, 2016.
  """
  check_choice("scaling", scaling, ("paper", "mean"))
  n_source, mean_source, covariance_source = mean_and_covariance(
    source, where_source, axis_name
  )
  n_target, mean_target, covariance_target = mean_and_covariance(
    target, where_target, axis_name
  )
  value = jnp.mean(jnp.square(covariance_source - covariance_target))
  if scaling == "paper":
    value = value / 4
  else:
    value = value + jnp.mean(jnp.square(mean_source - mean_target))
  return jnp.where(jnp.minimum(n_source, n_target) > 0, value, 0.0)
