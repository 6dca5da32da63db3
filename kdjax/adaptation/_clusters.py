"""Pseudo-labels from clusters of target features: SHOT and CAN."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import pairwise_squared_distances
from kdjax.ops import safe_norm
from kdjax.ops import softened_softmax
from kdjax.ops._collectives import total
from kdjax.ops._rows import masked_rows
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_integer
from kdjax.ops._validation import validate


class SphericalKMeans(NamedTuple):
  """Clusters of directions.

  Attributes:
    centers: `[classes, dims]`, of length 1 (0 for a class without direction).
    labels: `[target]`, the nearest centre of each row.
    distances: `[target]`, (1 - cosine) / 2 to it, in [0, 1]. CAN learns from
      rows nearer than 0.05, of classes with three such rows or more.

  References:
    Kang et al., `Contrastive adaptation network
    <https://arxiv.org/abs/1901.00976>`_, 2019.
  """

  centers: Float[Array, "classes dims"]
  labels: Int[Array, " target"]
  distances: Float[Array, " target"]


@validate
def spherical_kmeans(
  target: Float[Array, "target dims"],
  centers: Float[Array, "classes dims"],
  *,
  iterations: int = 100,
  tolerance: ArrayLike = 0.005,
  normalize: bool = True,
  where: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> SphericalKMeans:
  r"""Spherical k-means of CAN: target clusters that start at source classes.

  .. math::
    \hat y_i = \operatorname*{argmin}_c \tfrac12 (1 - \cos(f_i, o_c)), \qquad
    o_c \leftarrow \sum_{i : \hat y_i = c} \frac{f_i}{\lVert f_i \rVert}

  until the centres move by less than the tolerance on average. An empty
  cluster goes back to its first centre.

  Args:
    target: `[target, dims]`, features.
    centers: `[classes, dims]`, the classes' sums or means of source features;
      only directions matter. Cluster c keeps the label c.
    iterations: at most as many updates; a static integer.
    tolerance: on the mean (1 - cosine) / 2 between old and new centres. May be
      traced; 0 runs all iterations.
    normalize: whether rows count by direction (the paper); the authors' code
      sums the features themselves, so that long ones weigh more.
    where: which rows count.
    axis_name: the mapped axis that holds the rest of the rows; the centres are
      those of all, labels are this device's.

  Returns:
    :class:`SphericalKMeans`, without gradient. Published tolerance: 0.005.

  Raises:
    ValueError: if the widths differ or `iterations` is not positive.

  The authors then match clusters to classes by the Hungarian method; as each
  cluster starts at its class, that changes nothing unless centres cross over.

  Examples:
    >>> target = jnp.array([[5.0, 1.0], [4.0, 0.0], [0.0, 2.0]])
    >>> spherical_kmeans(target, jnp.array([[1.0, 0.2], [0.2, 1.0]])).labels
    Array([0, 0, 1], dtype=int32)

  References:
    Kang et al., `Contrastive adaptation network for unsupervised domain
    adaptation <https://arxiv.org/abs/1901.00976>`_, 2019.
  """
  check_integer("iterations", iterations, 1)
  dtype = jnp.promote_types(compute_dtype(target), compute_dtype(centers))
  rows, mask = masked_rows(jax.lax.stop_gradient(target).astype(dtype), where)
  first = _directions(jax.lax.stop_gradient(centers).astype(dtype))
  directions = _directions(rows)
  if normalize:
    rows = directions
  least = as_number("tolerance", tolerance, dtype)

  def step(
    carry: tuple[Array, Array], _: None
  ) -> tuple[tuple[Array, Array], None]:
    old, settled = carry
    member = mask[:, None] * jax.nn.one_hot(
      jnp.argmax(_product(directions, old.T), -1), old.shape[0], dtype=dtype
    )
    sums, counts = total(
      (_product(member.T, rows), jnp.sum(member, 0)), axis_name
    )
    new = _directions(jnp.where(counts[:, None] > 0, sums, first))
    moved = jnp.mean(0.5 * (1 - jnp.sum(new * old, -1)))
    # The centres of the update that moved too little are still taken.
    kept = jnp.where(settled, old, new)
    return (kept, settled | (moved < least)), None

  # A mask that varies over devices does not make the centres vary.
  (found, _), _ = jax.lax.scan(
    step, (first, jnp.zeros((), bool)), None, length=iterations
  )
  similarities = _product(directions, found.T)
  return SphericalKMeans(
    found,
    jnp.argmax(similarities, -1).astype(jnp.int32),
    jnp.clip(0.5 * (1 - jnp.max(similarities, -1)), 0.0, 1.0),
  )


@validate
def centroid_pseudo_labels(
  features: Float[Array, "batch dims"],
  logits: Float[Array, "batch classes"],
  *,
  rounds: int = 2,
  distance: str = "cosine",
  min_count: ArrayLike = 0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Int[Array, " batch"]:
  r"""Centroid pseudo-labels of SHOT: the nearest class mean of the target.

  .. math::
    \hat y_i = \operatorname*{argmin}_c d(f_i, \mu_c), \qquad
    \mu_c = \frac{\sum_i p_{ic} f_i}{\sum_i p_{ic}}

  with p the softmax of the logits in the first round and the labels of the
  round before, one-hot, afterwards. They are right more often than the
  classifier, which knows the source alone.

  Args:
    features: `[batch, dims]`, of ALL target examples in evaluation mode.
    logits: `[batch, classes]`, of the same.
    rounds: how many rounds; a static integer.
    distance: "cosine", to which end a 1 is appended to each row, which is then
      scaled to length 1 (the authors), or "euclidean".
    min_count: a class that no more examples than this are given is no
      candidate. May be traced.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    Labels `[batch]`; no gradient. Published: 2 rounds, renewed 15 times in
    training; the cross-entropy with them weighs 0.3, beside
    :func:`information_maximization_loss`.

  Raises:
    ValueError: if shapes disagree or an option is unknown.

  Examples:
    >>> features = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.1], [0.0, 2.0]])
    >>> centroid_pseudo_labels(features, logits)
    Array([0, 0, 1], dtype=int32)

  References:
    Liang, Hu and Feng, `Do we really need to access the source data?
    <https://arxiv.org/abs/2002.08546>`_, 2020.
  """
  check_integer("rounds", rounds, 1)
  check_choice("distance", distance, ("cosine", "euclidean"))
  rows, mask = masked_rows(jax.lax.stop_gradient(features), where)
  scores, _ = masked_rows(jax.lax.stop_gradient(logits), where)
  classes = scores.shape[1]
  if distance == "cosine":
    rows = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], 1)
    rows = _directions(rows)
  member = softened_softmax(scores)
  labels = jnp.argmax(scores, -1)
  least = as_number("min_count", min_count, rows.dtype)
  for _ in range(rounds):
    hard = jax.nn.one_hot(labels, classes, dtype=rows.dtype)
    sums, weights, counts = total(
      (
        _product((mask[:, None] * member).T, rows),
        jnp.sum(mask[:, None] * member, 0),
        jnp.sum(mask[:, None] * hard, 0),
      ),
      axis_name,
    )
    centers = sums / jnp.where(weights > 0, weights, 1.0)[:, None]
    if distance == "cosine":
      cost = 1 - _product(rows, _directions(centers).T)
    else:
      cost = pairwise_squared_distances(rows, centers)
    candidate = counts > least
    labels = jnp.where(
      jnp.any(candidate),
      jnp.argmin(jnp.where(candidate[None], cost, jnp.inf), -1),
      labels,
    )
    member = jax.nn.one_hot(labels, classes, dtype=rows.dtype)
  return labels.astype(jnp.int32)


def _directions(rows: Float[Array, "rows dims"]) -> Float[Array, "rows dims"]:
  """Returns rows of length 1; a zero row stays zero."""
  top = jnp.max(jnp.abs(rows), -1, keepdims=True)
  rows = rows / jnp.where(top > 0, top, 1.0)
  norms = safe_norm(rows, keepdims=True)
  return rows / jnp.where(norms > 0, norms, 1.0)


def _product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Array:
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
