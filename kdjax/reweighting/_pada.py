"""Partial adversarial domain adaptation (PADA): class weights."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def pada_class_weights(
  target_logits: Float[Array, "target classes"],
  source_labels: Int[Array, " source"] | None = None,
  *,
  temperature: ArrayLike = 0.1,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " classes"] | Float[Array, " source"]:
  r"""Partial adversarial domain adaptation (PADA): class weights.

  .. math::
    \gamma = \operatorname{mean}_j \operatorname{softmax}(z_j / T), \qquad
    \gamma \leftarrow \gamma / \max_c \gamma_c, \qquad
    w_i \propto \gamma_{y_i}

  Classes with a small mean probability on the target get small weights.

  Args:
    target_logits: `[target, classes]`, of the whole target set. TLlib computes
      the weights every 500 steps.
    source_labels: `[source]`, integers. With labels the result is one weight a
      row.
    temperature: T > 0. TLlib: 0.1; the paper has no temperature (1).
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both batches.

  Returns:
    Weights without gradient; all 1 if all target rows are masked. Without
    `source_labels`: `[classes]`, of maximum 1, the weights of the cross-entropy
    in TLlib. With `source_labels`: `[source]`, of mean 1, for the source term
    of the discriminator's loss. There TLlib has the class weights for both
    domains, and so a loss that is smaller by their mean over the batch.

  Raises:
    ValueError: if a static temperature is not above 0.

  Examples:
    >>> logits = jnp.array([[1.0, 0.0, -jnp.inf]])
    >>> weights = pada_class_weights(logits, temperature=1.0)
    >>> [f"{w:.3f}" for w in weights.tolist()]
    ['1.000', '0.368', '0.000']

  References:
    Cao et al., `Partial adversarial domain adaptation
    <https://arxiv.org/abs/1808.04205>`_, 2018.
  """
  logits, mask = ops.masked_rows(
    jax.lax.stop_gradient(target_logits), where_target
  )
  probabilities = ops.softened_softmax(logits, temperature=temperature)
  sums = ops.sum_over_devices(
    jnp.sum(mask[:, None] * probabilities, 0), axis_name
  )
  largest = jnp.max(sums)
  empty = largest <= 0
  weights = jnp.where(empty, 1.0, sums / jnp.where(empty, 1.0, largest))
  if source_labels is None:
    return weights
  return weights_of_rows(weights, source_labels, where_source, axis_name)


def weights_of_rows(
  weights: Float[Array, " classes"],
  labels: Int[Array, " source"],
  where: Bool[Array, " source"] | None,
  axis_name: str | None,
) -> Float[Array, " source"]:
  """Returns the class weight of each row, scaled to mean 1."""
  members = ops.one_hot_labels(labels, weights.size, weights.dtype, where)
  _, mask = ops.masked_rows(members, where)
  rows = jnp.matmul(members, weights, precision="highest")
  return ops.weights_of_mean_one(rows, mask, axis_name)
