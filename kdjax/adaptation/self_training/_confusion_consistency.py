"""Consistency of class confusion (CC) between two views (TLlib)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.adaptation.predictions._entropy import entropy_weight
from kdjax.adaptation.self_training._confidence import is_confident


@ops.validate
def confusion_consistency_loss(
  strong_logits: Float[Array, "batch classes"],
  logits: Float[Array, "batch classes"],
  *,
  temperature: ArrayLike = 2.5,
  threshold: ArrayLike = 0.95,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Class-confusion consistency (CC): equal confusion matrices of two views.

  .. math::
    \ell = \frac{m}{B} \frac1K \sum_{jk} (C_{jk} - C'_{jk})^2, \qquad
    C_{jk} = \frac{\sum_i w_i p_{ij} p_{ik}}{\sum_{ij'} w_i p_{ij'} p_{ik}},
    \quad w_i = 1 + e^{-H(p_i)}

  over the m of B examples whose plain view is confident. C is the confusion
  matrix of `mcc_loss` at temperature T for the plain view, C' for the strong
  view.

  Args:
    strong_logits: `[batch, classes]`, of the strong view; they get gradient.
    logits: `[batch, classes]`, of the plain view; no gradient.
    temperature: T > 0. May be traced.
    threshold: in [0, 1], on the plain view's confidence at temperature T. May
      be traced. The authors: 0.7 for DomainNet, 0.95 elsewhere.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; 0 with gradient 0 if no example is confident. Published weight: 1,
    added to `mcc_loss`.

  Raises:
    ValueError: if the shapes differ or a static number is out of range.

  The published code divides the columns of the symmetric matrix by its row
  sums, which equal its column sums. If no example is confident, it returns
  Python integers.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> print(f"{confusion_consistency_loss(sure, sure):.3f}")
    0.000
    >>> print(f"{confusion_consistency_loss(0.0 * sure, sure):.3f}")
    0.500

  References:
    Jin et al., `Minimum class confusion for versatile domain adaptation
    <https://arxiv.org/abs/1912.03699>`_, 2020; the consistency is TLlib's
    `cc_loss <https://github.com/thuml/Transfer-Learning-Library>`_.
  """
  strong, mask = ops.masked_rows(strong_logits, where)
  plain, _ = ops.masked_rows(jax.lax.stop_gradient(logits), where)
  scale = ops.row_temperature(temperature, plain, -1)
  confident = is_confident(plain / scale, threshold) & (mask > 0)
  gap = _confusion(plain, scale, confident, axis_name) - _confusion(
    strong, scale, confident, axis_name
  )
  chosen, count = ops.sum_over_devices(
    (jnp.sum(confident, dtype=mask.dtype), jnp.sum(mask)), axis_name
  )
  value = jnp.sum(jnp.square(gap)) / strong.shape[1]
  return chosen / jnp.maximum(count, 1) * value


def _confusion(
  logits: Float[Array, "batch classes"],
  scale: Array,
  confident: Bool[Array, " batch"],
  axis_name: str | None,
) -> Float[Array, "classes classes"]:
  """Returns C: for each class k, the mean of p_ij under weights w_i p_ik.

  Computed in logarithms, so that a class of vanishing probability has a column.
  """
  log_p = ops.log_softened_softmax(logits / scale)
  log_weight = jnp.log(entropy_weight(jnp.exp(log_p)))[:, None]
  counted = confident[:, None] & (log_p != -jnp.inf)
  log_joint = jnp.where(counted, log_p + log_weight, 0.0)
  top = jax.lax.stop_gradient(
    ops.largest(log_joint, 0, where=counted, initial=-jnp.inf)
  )
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  present = top != -jnp.inf
  top = jnp.where(present, top, 0.0)
  joint = jnp.where(counted, jnp.exp(log_joint - top[None]), 0.0)
  sums, totals = ops.sum_over_devices(
    (
      jnp.matmul(jnp.exp(log_p).T, joint, precision=jax.lax.Precision.HIGHEST),
      jnp.sum(joint, 0),
    ),
    axis_name,
  )
  columns = sums / jnp.where(present, totals, 1.0)[None]
  return jnp.where(present[None], columns, 0.0)
