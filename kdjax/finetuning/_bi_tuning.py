"""Bi-Tuning: contrastive losses on the classifier's and a projector's side."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import as_number
from kdjax.ops import check_integer
from kdjax.ops import check_labels
from kdjax.ops import check_positive
from kdjax.ops import compute_dtype
from kdjax.ops import gather_batch
from kdjax.ops import safe_norm
from kdjax.ops import validate


class KeyQueue(NamedTuple):
  """Keys of past examples, by class: the state of Bi-Tuning.

  Attributes:
    keys: `[classes, size, dims]`, vectors of unit norm.
    position: `[classes]`, where the next key of a class goes.

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """

  keys: Float[Array, "classes size dims"]
  position: Int[Array, " classes"]


@validate
def key_queue(
  key: Array,
  num_classes: int,
  dims: int,
  *,
  size: int = 40,
) -> KeyQueue:
  """Key queue of Bi-Tuning, filled with random directions.

  Args:
    key: draws the directions.
    num_classes: how many classes there are.
    dims: the width of the keys: that of the projector, or that of the features
      and 1 more for `homogeneous_directions`.
    size: how many keys of each class are kept.

  Returns:
    A `KeyQueue`; its `keys` are what the losses take.

  Raises:
    ValueError: if a number is below 1.
    TypeError: if a number is no integer.

  Examples:
    >>> key_queue(jax.random.key(0), 3, 4, size=2).keys.shape
    (3, 2, 4)

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  for name, value in (
    ("num_classes", num_classes),
    ("dims", dims),
    ("size", size),
  ):
    check_integer(f"key_queue: {name}", value, 1)
  keys = _directions(jax.random.normal(key, (num_classes, size, dims)))
  return KeyQueue(keys, jnp.zeros(num_classes, jnp.int32))


@validate
def enqueue_keys(
  queue: KeyQueue,
  keys: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> KeyQueue:
  """Enqueueing of Bi-Tuning: new keys replace the oldest of their class.

  Args:
    queue: the state.
    keys: `[batch, dims]`, of unit norm, from the momentum encoder; no gradient.
    labels: `[batch]`, the classes of the keys.
    where: `[batch]`, which keys count.
    axis_name: the mapped axis that holds the rest of the batch, in whose order
      all devices enqueue all keys: the queue stays the same on each.

  Returns:
    The new state. Of more keys of a class than the queue holds, the last stay.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if dtypes are wrong.

  Examples:
    >>> queue = KeyQueue(jnp.zeros((2, 2, 1)), jnp.zeros(2, jnp.int32))
    >>> keys = jnp.array([[1.0], [2.0], [3.0]])
    >>> queue = enqueue_keys(queue, keys, jnp.array([1, 0, 1]))
    >>> print(queue.keys[..., 0], queue.position)
    [[2. 0.]
     [1. 3.]] [1 0]

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  classes, size, dims = queue.keys.shape
  if keys.shape[1] != dims:
    raise ValueError(
      f"enqueue_keys: keys has shape {keys.shape}; expected {dims} dims, as in "
      "queue."
    )
  check_labels(labels, classes)
  counted = jnp.ones(labels.shape, bool) if where is None else where
  keys, labels, counted = (
    gather_batch(x, axis_name)
    for x in (jax.lax.stop_gradient(keys), labels, counted)
  )
  same = (labels[:, None] == labels[None]) & counted[None]
  order = jnp.arange(labels.size)
  before = jnp.sum(same & (order[None] < order[:, None]), 1)
  after = jnp.sum(same & (order[None] > order[:, None]), 1)
  slot = (queue.position[labels] + before) % size
  # Out of range, and so dropped: a place is written once.
  slot = jnp.where(counted & (after < size), slot, size)
  added = (
    jnp.zeros_like(queue.position)
    .at[labels]
    .add(counted.astype(queue.position.dtype))
  )
  return KeyQueue(
    queue.keys.at[labels, slot].set(keys.astype(queue.keys.dtype), mode="drop"),
    (queue.position + added) % size,
  )


@validate
def homogeneous_directions(
  rows: Float[Array, "batch dims"],
  offsets: Float[Array, " batch"] | None = None,
) -> Float[Array, "batch dims_and_1"]:
  r"""Homogeneous directions: rows with an offset appended, of unit norm.

  .. math:: \hat x = (x, b) / \lVert (x, b) \rVert_2

  With offsets 1, of features; with the biases, of a head's weights. Their
  inner product is then a cosine that knows the bias.

  Args:
    rows: `[batch, dims]`: features, or a head's weights, a class a row.
    offsets: `[batch]`, 1 without it.

  Returns:
    `[batch, dims + 1]`; 0 for a row that is 0 with its offset.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array is not floating-point.

  Examples:
    >>> print(homogeneous_directions(jnp.array([[0.0, 0.0]])))
    [[0. 0. 1.]]

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  rows = rows.astype(compute_dtype(rows))
  if offsets is None:
    offsets = jnp.ones(rows.shape[0], rows.dtype)
  offsets = offsets.astype(rows.dtype)
  return _directions(jnp.concatenate([rows, offsets[:, None]], 1))


@validate
def categorical_contrastive_loss(
  queries: Float[Array, "batch dims"],
  keys: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue_keys: Float[Array, "classes size dims"],
  *,
  temperature: ArrayLike = 0.07,
) -> Float[Array, " batch"]:
  r"""Categorical contrastive loss (CCL) of Bi-Tuning, on the projector's side.

  .. math::
    \ell = \operatorname{KL}(u \,\Vert\, p), \qquad
    p = \operatorname{softmax}(z \cdot z_k / \tau), \qquad
    u_k = \frac{[k \in \{z^+\} \cup Q_y]}{1 + K}

  The query z finds its own key and the K keys of its class among those of all
  classes.

  Args:
    queries: `[batch, dims]`, projections of unit norm.
    keys: `[batch, dims]`, the momentum encoder's projections of other views of
      the same examples, of unit norm; no gradient.
    labels: `[batch]`.
    queue_keys: `[classes, size, dims]`, `KeyQueue`'s; no gradient. In
      TLlib without this batch's keys.
    temperature: tau > 0. May be traced.

  Returns:
    One value an example. Published weight: 1 times the mean, beside that of
    `contrastive_cross_entropy_loss` and the cross-entropy, with K = 40
    and momentum 0.999.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if dtypes are wrong.

  A divergence, as in TLlib; the paper has the cross-entropy, more by the
  constant log(1 + K).

  Examples:
    >>> x = jnp.array([[1.0, 0.0]])
    >>> queue = jnp.array([[[1.0, 0.0]], [[-1.0, 0.0]]])
    >>> values = categorical_contrastive_loss(
    ...   x, x, jnp.array([0]), queue, temperature=1.0
    ... )
    >>> print(f"{values[0]:.4f}")  # log(1 + exp(-2) / 2)
    0.0655

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  dtype = compute_dtype(queries)
  queries = queries.astype(dtype)
  own = jax.lax.stop_gradient(keys).astype(dtype)
  own = jnp.sum(queries * own, 1)
  return _contrast(own, queries, labels, queue_keys, temperature)


@validate
def contrastive_cross_entropy_loss(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue_keys: Float[Array, "classes size dims"],
  head: Float[Array, "classes dims"],
  *,
  temperature: ArrayLike = 0.07,
  stop_head_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Contrastive cross-entropy (CCE) of Bi-Tuning, on the classifier's side.

  .. math::
    \ell = \operatorname{KL}(u \,\Vert\, p), \qquad
    p = \operatorname{softmax}(h_k \cdot w_y / \tau), \qquad
    u_k = \frac{[k \in \{h\} \cup Q_y]}{1 + K}

  A class finds its examples, as in the cross-entropy an example finds its
  class: the weights of the example's class find its features and the K keys
  of that class among those of all classes.

  Args:
    features: `[batch, dims]`, of unit norm, by `homogeneous_directions`.
    labels: `[batch]`.
    queue_keys: `[classes, size, dims]`, `KeyQueue`'s, such directions of
      the momentum encoder's features; no gradient. In TLlib with this batch's
      keys.
    head: `[classes, dims]`, the head's weights and biases as directions.
    temperature: tau > 0. May be traced.
    stop_head_gradient: False lets gradients reach the head. In TLlib none do.

  Returns:
    One value an example. Published weight: 1 times the mean.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if dtypes are wrong.

  A divergence, as in TLlib; the paper has the cross-entropy, more by the
  constant log(1 + K).

  Examples:
    >>> head = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> features, labels = head[:1], jnp.array([0])
    >>> queue = head[:, None]
    >>> values = contrastive_cross_entropy_loss(
    ...   features, labels, queue, head, temperature=1.0
    ... )
    >>> print(f"{values[0]:.4f}")  # log(1 + exp(-2) / 2)
    0.0655

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  dtype = compute_dtype(features)
  head = head.astype(dtype)
  if stop_head_gradient:
    head = jax.lax.stop_gradient(head)
  anchors = head[labels]
  own = jnp.sum(features.astype(dtype) * anchors, 1)
  return _contrast(own, anchors, labels, queue_keys, temperature)


def _contrast(
  own: Float[Array, " batch"],
  anchors: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue_keys: Float[Array, "classes size dims"],
  temperature: ArrayLike,
) -> Float[Array, " batch"]:
  """Returns KL(u || p) of an anchor's own score and those of the queue."""
  check_positive("temperature", temperature)
  classes, size, _ = queue_keys.shape
  check_labels(labels, classes)
  scale = as_number("temperature", temperature, own.dtype)
  queue = jax.lax.stop_gradient(queue_keys).astype(own.dtype)
  scores = jnp.einsum("bd,ckd->bck", anchors, queue, precision="highest")
  scores, own = scores / scale, own / scale
  everything = jnp.concatenate([own[:, None], scores.reshape(own.size, -1)], 1)
  positives = jnp.sum(
    scores * jax.nn.one_hot(labels, classes, dtype=own.dtype)[..., None], (1, 2)
  )
  mean = (own + positives) / (size + 1)
  return jax.nn.logsumexp(everything, 1) - mean - jnp.log(size + 1.0)


def _directions(x: Float[Array, "... dims"]) -> Float[Array, "... dims"]:
  """Returns unit vectors; the zero vector is 0, with gradient 0."""
  norm = safe_norm(x, keepdims=True)
  return x / jnp.where(norm == 0, 1.0, norm)
