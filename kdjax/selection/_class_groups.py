"""Examples grouped by class, and centred features."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.ops import gather_batch
from kdjax.ops._classes import class_members
from kdjax.ops._masked_rows import whole_rows


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
  """Returns all rows, their mask, and who belongs to which class."""
  rows, mask = whole_rows(features, where, axis_name)
  labels = gather_batch(labels, axis_name)
  return rows, mask, class_members(function, labels, num_classes, mask)


def centred(rows: Array, mask: Array, count: Array) -> Array:
  """Returns the rows less their mean, 0 where masked."""
  mean = jnp.sum(rows, 0) / count
  return mask[:, None] * (rows - mean[None])
