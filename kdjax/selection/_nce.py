"""Negative conditional entropy (NCE)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def nce(
  source_labels: Int[Array, " batch"],
  target_labels: Int[Array, " batch"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Negative conditional entropy (NCE), a transferability score of labels.

  .. math::
    -H(Y \mid Z) = \sum_{y, z} \hat p(y, z) \log \frac{\hat p(y, z)}{\hat p(z)}

  It measures how well the source labels Z of target examples determine the
  target labels Y. Higher is better; the maximum is 0.

  Args:
    source_labels: `[batch]`, the source model's predictions on target
      examples, or their true source labels if they are known.
    target_labels: `[batch]`.
    where: `[batch]`, mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples, which are
      gathered.

  Returns:
    A scalar, at most 0, in JAX's default float dtype; 0 if all examples are
    masked.

  Raises:
    ValueError: if the batches differ.
    TypeError: if the labels are not integers.

  The function sorts and counts the examples. It needs no number of classes, and
  labels may be any integers, also under jit.

  Examples:
    >>> source, target = jnp.array([5, 5, 7]), jnp.array([0, 1, 2])
    >>> print(f"{nce(source, target):.4f}")  # 2/3 log 1/2
    -0.4621

  References:
    Tran, Nguyen and Hassner, `Transferability and hardness of supervised
    classification tasks <https://arxiv.org/abs/1908.08142>`_, 2019.
  """
  counted = jnp.ones(source_labels.shape, bool) if where is None else where
  source, target, counted = (
    ops.gather_batch(x, axis_name)
    for x in (source_labels, target_labels, counted)
  )
  # Sorted by mask, source label and target label: groups are consecutive.
  order = jnp.lexsort((target, source, ~counted))
  source, target, counted = source[order], target[order], counted[order]
  new_source = jnp.concatenate([jnp.ones(1, bool), source[1:] != source[:-1]])
  new_pair = new_source.at[1:].set(new_source[1:] | (target[1:] != target[:-1]))
  pairs, sources = (
    _group_sizes(new, counted) for new in (new_pair, new_source)
  )
  values = jnp.log(pairs / sources)
  return ops.mean_over_devices(ops.masked_mean(values, counted), axis_name)


def _group_sizes(
  new: Bool[Array, " batch"], counted: Bool[Array, " batch"]
) -> Float[Array, " batch"]:
  """Returns the group size of each example; `new` marks starts of groups."""
  group = jnp.cumsum(new) - 1
  ones = counted.astype(jnp.result_type(float))
  sizes = jax.ops.segment_sum(ones, group, new.size)[group]
  return jnp.maximum(sizes, 1.0)
