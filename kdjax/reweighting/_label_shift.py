"""Black-box shift estimation (BBSE, RLLS): label shift from confusions."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.reweighting._pada import weights_of_rows


@ops.validate
def bbse_weights(
  source_logits: Float[Array, "source classes"],
  target_logits: Float[Array, "target classes"],
  source_labels: Int[Array, " source"],
  *,
  soft: bool = False,
  ridge: ArrayLike = 0.0,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Black-box shift estimation (BBSE): weights of source rows, label shift.

  .. math::
    C_{kc} = \hat p_S(\hat y = k, y = c), \qquad
    \mu_k = \hat p_T(\hat y = k), \qquad
    C \omega = \mu, \qquad w_i = \max(0, \omega_{y_i})

  If only p(y) differs between the domains, omega is p_T(y) / p_S(y) for every
  classifier with an invertible confusion matrix C.

  Args:
    source_logits: `[source, classes]`, of source rows outside the training set
      of the classifier.
    target_logits: `[target, classes]`.
    source_labels: `[source]`, integers in [0, classes).
    soft: whether y-hat is the softmax (BBSE-soft) instead of the arg max.
    ridge: lambda >= 0 in ||C omega - mu||^2 + lambda ||omega - 1||^2, which
      shrinks the weights towards 1 (RLLS, with squares); 0 is BBSE.
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both batches.

  Returns:
    `[source]`, not negative, without gradient, scaled to mean 1 (a solution
    without clipping at 0 has mean 1 already). All weights are 1 if a domain has
    no rows.

  Raises:
    ValueError: if shapes differ or a static ridge is negative.

  Differs from the paper: for a singular C (for example with a class that is
  never predicted), the result is the solution nearest to weights of 1.

  Examples:
    >>> source = 9.0 * jnp.eye(2)[jnp.array([0, 0, 1, 1])]
    >>> target = 9.0 * jnp.eye(2)[jnp.array([0, 1, 1, 1])]
    >>> weights = bbse_weights(source, target, jnp.array([0, 0, 1, 1]))
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['0.50', '0.50', '1.50', '1.50']

  References:
    Lipton et al., `Detecting and correcting for label shift with black box
    predictors <https://arxiv.org/abs/1802.03916>`_, 2018; Azizzadenesheli et
    al., `Regularized learning for domain adaptation under label shifts
    <https://arxiv.org/abs/1903.09734>`_, 2019.
  """
  ops.check_range("ridge", ridge, 0.0, float("inf"))
  classes = source_logits.shape[1]
  dtype = jnp.promote_types(source_logits.dtype, target_logits.dtype)

  def predicted(logits: Array, where: Array | None) -> tuple[Array, Array]:
    logits, mask = ops.masked_rows(
      jax.lax.stop_gradient(logits.astype(dtype)), where
    )
    if soft:
      rows = ops.softened_softmax(logits)
    else:
      rows = jax.nn.one_hot(jnp.argmax(logits, 1), classes, dtype=logits.dtype)
      rows = ops.keep_nan(rows, logits)
    return mask[:, None] * rows, mask

  of_source, source_mask = predicted(source_logits, where_source)
  of_target, target_mask = predicted(target_logits, where_target)
  labels = ops.one_hot_labels(
    source_labels, classes, of_source.dtype, where_source, "source_labels"
  )
  joint, marginal, n_source, n_target = ops.sum_over_devices(
    (
      jnp.matmul(of_source.T, labels, precision="highest"),
      jnp.sum(of_target, 0),
      jnp.sum(source_mask),
      jnp.sum(target_mask),
    ),
    axis_name,
  )
  joint = joint / jnp.maximum(n_source, 1)
  marginal = marginal / jnp.maximum(n_target, 1)
  ridge = ops.as_number("ridge", ridge, joint.dtype)
  with jax.default_matmul_precision("highest"):
    left, values, right = jnp.linalg.svd(joint)
    cutoff = 10 * classes * jnp.finfo(joint.dtype).eps * values[:1]
    used = values > cutoff
    divisor = jnp.square(values) + ridge
    inverse = jnp.where(used, values / jnp.where(used, divisor, 1.0), 0.0)
    surplus = marginal - jnp.sum(joint, 1)
    solution = 1 + right.T @ (inverse * (left.T @ surplus))
  solution = jnp.where(ops.any_nan(joint, marginal), jnp.nan, solution)
  present = jnp.minimum(n_source, n_target) > 0
  solution = jnp.where(present, ops.at_least(solution, 0.0), 1.0)
  return weights_of_rows(solution, source_labels, where_source, axis_name)
