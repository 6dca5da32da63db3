"""Minimum class confusion (MCC)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.adaptation.predictions._entropy import entropy_weight


@ops.validate
def mcc_loss(
  target_logits: Float[Array, "batch classes"],
  *,
  temperature: ArrayLike = 2.5,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Minimum class confusion (MCC): share of confusion between classes.

  .. math::
    C_{jk} = \sum_i w_i p_{ij} p_{ik}, \qquad
    \ell = \frac1K \sum_j \frac{\sum_{k \neq j} C_{jk}}{\sum_k C_{jk}}, \qquad
    w_i \propto 1 + e^{-H(p_i)}

  with p = softmax(z / T). Confident examples have larger weights w, which get
  no gradient.

  Args:
    target_logits: `[batch, classes]`; a class at -inf in all rows is left out.
    temperature: T > 0. May be traced. TLlib: 2.5, and 2 for DomainNet.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [0, 1]; 0 with gradient 0 if all examples are masked. Published
    weight: 1 (10 for DomainNet).

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if the logits are not floating-point.

  The probabilities of an example sum to 1, so the share of class j is the mean
  of 1 - p_ij with weights w_i p_ij. It needs no K x K matrix and is finite for
  a class of vanishing probability, where the matrix gives 0 / 0. The entropy
  has 1e-5 inside the logarithm, as in the authors' code.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> print(f"{mcc_loss(sure):.3f} {mcc_loss(0.0 * sure):.3f}")
    0.000 0.500

  References:
    Jin et al., `Minimum class confusion for versatile domain adaptation
    <https://arxiv.org/abs/1912.03699>`_, 2020.
  """
  logits, mask = ops.masked_rows(target_logits, where)
  log_p = ops.log_softened_softmax(logits, temperature=temperature)
  log_weight = jnp.log(entropy_weight(jnp.exp(log_p)))[:, None]
  counted = (mask[:, None] > 0) & (log_p != -jnp.inf)
  log_joint = jnp.where(counted, log_p + log_weight, 0.0)
  top = jax.lax.stop_gradient(
    ops.largest(log_joint, 0, where=counted, initial=-jnp.inf)
  )
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  present = top != -jnp.inf
  top = jnp.where(present, top, 0.0)
  joint = jnp.where(counted, jnp.exp(log_joint - top[None]), 0.0)
  confused, everything = ops.sum_over_devices(
    (jnp.sum(-jnp.expm1(log_p) * joint, 0), jnp.sum(joint, 0)), axis_name
  )
  shares = jnp.where(present, confused / jnp.where(present, everything, 1), 0.0)
  return jnp.sum(shares) / jnp.maximum(jnp.sum(present), 1)
