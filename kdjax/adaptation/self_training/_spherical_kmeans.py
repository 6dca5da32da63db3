"""Spherical k-means (CAN)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.adaptation.self_training._shot import unit_directions


@ops.exportable
class SphericalKMeans(NamedTuple):
  """Result of `spherical_kmeans`.

  Attributes:
    centers: `[classes, dims]`, of length 1 (0 for a center of 0).
    labels: `[target]`, the nearest center of each row.
    distances: `[target]`, (1 - cosine) / 2 to the nearest center, in [0, 1].
      CAN trains on rows with distances below 0.05, in classes with at least
      three such rows.
  """

  centers: Float[Array, "classes dims"]
  labels: Int[Array, " target"]
  distances: Float[Array, " target"]


@ops.validate
def spherical_kmeans(
  target: Float[Array, "target dims"],
  centers: Float[Array, "classes dims"],
  *,
  num_iterations: int = 100,
  tolerance: ArrayLike = 0.005,
  normalize: bool = True,
  where: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> SphericalKMeans:
  r"""Spherical k-means (CAN): target clusters, started at source classes.

  .. math::
    \hat y_i = \operatorname*{argmin}_c \tfrac12 (1 - \cos(f_i, o_c)), \qquad
    o_c \leftarrow \sum_{i : \hat y_i = c} \frac{f_i}{\lVert f_i \rVert}

  until the mean movement of the centers is below the tolerance. An empty
  cluster gets its first center back.

  Args:
    target: `[target, dims]`, features.
    centers: `[classes, dims]`, the sums or means of the source features of each
      class; only their directions matter. Cluster c keeps the label c.
    num_iterations: the largest number of updates; a static integer.
    tolerance: the limit of the mean (1 - cosine) / 2 between old and new
      centers. May be traced. 0 runs all iterations.
    normalize: whether to sum features of length 1 (the paper) or the features
      themselves (the authors' code), which gives long features more weight.
    where: mask of the rows.
    axis_name: the mapped axis that holds the rest of the rows. The centers are
      computed over all rows; the labels are those of this device.

  Returns:
    `SphericalKMeans`, without gradient. Published tolerance: 0.005.

  Raises:
    ValueError: if the widths differ or `num_iterations` is not positive.

  The authors' code then matches clusters to classes by the Hungarian method.
  Each cluster starts at its class, so the matching changes a label only if
  centers change places.

  Examples:
    >>> target = jnp.array([[5.0, 1.0], [4.0, 0.0], [0.0, 2.0]])
    >>> spherical_kmeans(target, jnp.array([[1.0, 0.2], [0.2, 1.0]])).labels
    Array([0, 0, 1], dtype=int32)

  References:
    Kang et al., `Contrastive adaptation network for unsupervised domain
    adaptation <https://arxiv.org/abs/1901.00976>`_, 2019.
  """
  ops.check_integer("num_iterations", num_iterations, 1)
  dtype = jnp.promote_types(
    ops.compute_dtype(target), ops.compute_dtype(centers)
  )
  rows, mask = ops.masked_rows(
    jax.lax.stop_gradient(target).astype(dtype), where
  )
  first = unit_directions(jax.lax.stop_gradient(centers).astype(dtype))
  directions = unit_directions(rows)
  if normalize:
    rows = directions
  ops.check_range("tolerance", tolerance, 0.0, math.inf)
  least = ops.as_number("tolerance", tolerance, dtype)

  def step(
    carry: tuple[Array, Array], _: None
  ) -> tuple[tuple[Array, Array], None]:
    old, settled = carry
    member = mask[:, None] * jax.nn.one_hot(
      jnp.argmax(_product(directions, old.T), -1), old.shape[0], dtype=dtype
    )
    sums, counts = ops.sum_over_devices(
      (_product(member.T, rows), jnp.sum(member, 0)), axis_name
    )
    new = unit_directions(jnp.where(counts[:, None] > 0, sums, first))
    moved = jnp.mean(0.5 * (1 - jnp.sum(new * old, -1)))
    # The update that ends the iteration still replaces the centers.
    latest = jnp.where(settled, old, new)
    return (latest, settled | (moved < least)), None

  # The centers are equal on all devices, though the masks differ.
  (found, _), _ = jax.lax.scan(
    step, (first, jnp.zeros((), bool)), None, length=num_iterations
  )
  found = ops.keep_nan(found, first)
  similarities = _product(directions, found.T)
  return SphericalKMeans(
    found,
    jnp.argmax(similarities, -1).astype(jnp.int32),
    jnp.clip(0.5 * (1 - ops.largest(similarities, -1)), 0.0, 1.0),
  )


def _product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Array:
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
