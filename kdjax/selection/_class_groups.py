"""Class memberships of examples, and centered features."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


def grouped(
  function: str,
  features: Array,
  labels: Array,
  num_classes: int | None,
  where: Array | None,
  axis_name: str | None,
) -> tuple[
  Float[Array, "whole dims"],
  Float[Array, " whole"],
  Float[Array, "whole classes"],
]:
  """Returns the rows of all devices, their mask and one-hot classes."""
  rows, mask = ops.gathered_rows(features, where, axis_name)
  labels = ops.gather_batch(labels, axis_name)
  return rows, mask, ops.class_one_hot(function, labels, num_classes, mask)


def centered(rows: Array, mask: Array, count: Array) -> Array:
  """Returns the rows minus their mean, 0 where masked."""
  mean = jnp.sum(rows, 0) / count
  return mask[:, None] * (rows - mean[None])
