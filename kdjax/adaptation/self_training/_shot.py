"""Source hypothesis transfer (SHOT): centroid pseudo-labels."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def centroid_pseudo_labels(
  target_features: Float[Array, "batch dims"],
  target_logits: Float[Array, "batch classes"],
  *,
  num_rounds: int = 2,
  distance: str = "cosine",
  min_count: ArrayLike = 0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Int[Array, " batch"]:
  r"""Centroid pseudo-labels (SHOT): class of the nearest target centroid.

  .. math::
    \hat y_i = \operatorname*{argmin}_c d(f_i, \mu_c), \qquad
    \mu_c = \frac{\sum_i p_{ic} f_i}{\sum_i p_{ic}}

  with p the softmax of the logits in the first round and the one-hot labels of
  the last round in later rounds. These labels are usually more accurate than
  the predictions of the source classifier.

  Args:
    target_features: `[batch, dims]`, of ALL target examples, in evaluation
      mode.
    target_logits: `[batch, classes]`, of the same examples.
    num_rounds: the number of rounds; a static integer.
    distance: "cosine" or "euclidean". For "cosine" a 1 is appended to each row,
      and rows are scaled to length 1 (the authors).
    min_count: only classes with more examples than this are candidates. May be
      traced.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the examples.

  Returns:
    Labels `[batch]`, without gradient. Published: 2 rounds, computed 15 times
    during training; their cross-entropy has weight 0.3 and is added to
    `information_maximization_loss`.

  Raises:
    ValueError: if shapes differ or an option is unknown.

  Examples:
    >>> features = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.1], [0.0, 2.0]])
    >>> centroid_pseudo_labels(features, logits)
    Array([0, 0, 1], dtype=int32)

  References:
    Liang, Hu and Feng, `Do we really need to access the source data?
    <https://arxiv.org/abs/2002.08546>`_, 2020.
  """
  ops.check_integer("num_rounds", num_rounds, 1)
  ops.check_choice("distance", distance, ("cosine", "euclidean"))
  rows, mask = ops.masked_rows(jax.lax.stop_gradient(target_features), where)
  scores, _ = ops.masked_rows(jax.lax.stop_gradient(target_logits), where)
  classes = scores.shape[1]
  if distance == "cosine":
    rows = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], 1)
    rows = unit_directions(rows)
  member = ops.softened_softmax(scores)
  labels = jnp.argmax(scores, -1)
  least = ops.as_number("min_count", min_count, rows.dtype)
  for _ in range(num_rounds):
    hard = jax.nn.one_hot(labels, classes, dtype=rows.dtype)
    sums, weights, counts = ops.sum_over_devices(
      (
        _product((mask[:, None] * member).T, rows),
        jnp.sum(mask[:, None] * member, 0),
        jnp.sum(mask[:, None] * hard, 0),
      ),
      axis_name,
    )
    centers = sums / jnp.where(weights > 0, weights, 1.0)[:, None]
    if distance == "cosine":
      cost = 1 - _product(rows, unit_directions(centers).T)
    else:
      cost = ops.pairwise_squared_distances(rows, centers)
    candidate = counts > least
    labels = jnp.where(
      jnp.any(candidate),
      jnp.argmin(jnp.where(candidate[None], cost, jnp.inf), -1),
      labels,
    )
    member = jax.nn.one_hot(labels, classes, dtype=rows.dtype)
  return labels.astype(jnp.int32)


def unit_directions(
  rows: Float[Array, "rows dims"],
) -> Float[Array, "rows dims"]:
  """Returns rows of length 1; a zero row stays zero."""
  top = jnp.max(jnp.abs(rows), -1, keepdims=True)
  rows = rows / jnp.where(top > 0, top, 1.0)
  norms = ops.safe_norm(rows, keepdims=True)
  return rows / jnp.where(norms > 0, norms, 1.0)


def _product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Array:
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
