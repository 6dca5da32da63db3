"""Bi-Tuning: contrastive losses for the classifier and for a projector."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.exportable
class KeyQueue(NamedTuple):
  """Key queues of Bi-Tuning, one for each class.

  Attributes:
    keys: `[classes, size, dims]`, vectors of unit norm.
    position: `[classes]`, the index that the next key of a class replaces.

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """

  keys: Float[Array, "classes size dims"]
  position: Int[Array, " classes"]


@ops.validate
def key_queue_init(
  key: Array,
  num_classes: int,
  dims: int,
  *,
  size: int = 40,
) -> KeyQueue:
  """Bi-Tuning's initial key queues: random unit vectors.

  Args:
    key: draws the vectors.
    num_classes: the number of classes.
    dims: the width of the keys: the width of the projector's outputs, or the
      width of the features plus 1 for `homogeneous_directions`.
    size: the number of keys of each class.

  Returns:
    A `KeyQueue`. Pass its `keys` to the losses.

  Raises:
    ValueError: if a number is below 1.
    TypeError: if a number is not an integer.

  Examples:
    >>> key_queue_init(jax.random.key(0), 3, 4, size=2).keys.shape
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
    ops.check_integer(f"key_queue_init: {name}", value, 1)
  keys = _unit_vectors(jax.random.normal(key, (num_classes, size, dims)))
  return KeyQueue(keys, jnp.zeros(num_classes, jnp.int32))


@ops.validate
def key_queue_update(
  state: KeyQueue,
  keys: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> KeyQueue:
  """Bi-Tuning's key queues: new keys replace the oldest keys of their class.

  Args:
    state: the key queues.
    keys: `[batch, dims]`, of unit norm, from the momentum encoder; no gradient.
    labels: `[batch]`, the classes of the keys.
    where: `[batch]`, True for the keys to add.
    axis_name: the mapped axis that holds the rest of the batch. Every device
      adds the keys of all devices in the same order, so that their queues stay
      equal.

  Returns:
    The new state. If a batch has more keys of a class than the queue holds, the
    last keys remain. A label out of range makes all keys NaN.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if dtypes are wrong.

  Examples:
    >>> state = KeyQueue(jnp.zeros((2, 2, 1)), jnp.zeros(2, jnp.int32))
    >>> keys = jnp.array([[1.0], [2.0], [3.0]])
    >>> state = key_queue_update(state, keys, jnp.array([1, 0, 1]))
    >>> print(state.keys[..., 0], state.position)
    [[2. 0.]
     [1. 3.]] [1 0]

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  classes, size, dims = state.keys.shape
  if keys.shape[1] != dims:
    raise ValueError(
      f"key_queue_update: keys has shape {keys.shape}; expected {dims} dims, "
      "the width of the keys in state."
    )
  keep = jnp.ones(labels.shape, bool) if where is None else where
  keys, labels, keep = (
    ops.gather_replicated(x, axis_name)
    for x in (jax.lax.stop_gradient(keys), labels, keep)
  )
  known = ops.check_labels(jnp.where(keep, labels, 0), classes)
  lost = jnp.any(keep & (known != labels))
  labels = known
  same = (labels[:, None] == labels[None]) & keep[None]
  order = jnp.arange(labels.size)
  before = jnp.sum(same & (order[None] < order[:, None]), 1)
  after = jnp.sum(same & (order[None] > order[:, None]), 1)
  slot = (state.position[labels] + before) % size
  # An index out of range drops a key: each index is written at most once.
  slot = jnp.where(keep & (after < size), slot, size)
  added = (
    jnp.zeros_like(state.position)
    .at[labels]
    .add(keep.astype(state.position.dtype))
  )
  kept = state.keys.at[labels, slot].set(
    keys.astype(state.keys.dtype), mode="drop"
  )
  return KeyQueue(
    jnp.where(lost, jnp.nan, kept),
    (state.position + added) % size,
  )


@ops.validate
def homogeneous_directions(
  rows: Float[Array, "batch dims"],
  offsets: Float[Array, " batch"] | None = None,
) -> Float[Array, "batch dims_and_1"]:
  r"""Homogeneous directions: appends an offset to rows and normalizes them.

  .. math:: \hat x = (x, b) / \lVert (x, b) \rVert_2

  Features get the offset 1; the weights of a head get its biases. The inner
  product of the two is a cosine similarity that includes the bias.

  Args:
    rows: `[batch, dims]`: features, or the weights of a head, one row for each
      class.
    offsets: `[batch]`; None for 1.

  Returns:
    `[batch, dims + 1]`; 0 if a row and its offset are 0.

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
  rows = rows.astype(ops.compute_dtype(rows))
  if offsets is None:
    offsets = jnp.ones(rows.shape[0], rows.dtype)
  offsets = offsets.astype(rows.dtype)
  return _unit_vectors(jnp.concatenate([rows, offsets[:, None]], 1))


@ops.validate
def categorical_contrastive_loss(
  queries: Float[Array, "batch dims"],
  keys: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue_keys: Float[Array, "classes size dims"],
  *,
  temperature: ArrayLike = 0.07,
) -> Float[Array, " batch"]:
  r"""Categorical contrastive loss (CCL) of Bi-Tuning: for the projector.

  .. math::
    \ell = \operatorname{KL}(u \,\Vert\, p), \qquad
    p = \operatorname{softmax}(z \cdot z_k / \tau), \qquad
    u_k = \frac{[k \in \{z^+\} \cup Q_y]}{1 + K}

  The positives of the query z are its own key z+ and the K queued keys Q_y of
  its class; the queued keys of all other classes are negatives.

  Args:
    queries: `[batch, dims]`, projections of unit norm.
    keys: `[batch, dims]`, projections of other views of the same examples by
      the momentum encoder, of unit norm; no gradient.
    labels: `[batch]`.
    queue_keys: `[classes, size, dims]`, the keys of a `KeyQueue`; no gradient.
      In TLlib they do not contain the keys of this batch.
    temperature: tau > 0. May be traced.

  Returns:
    One value an example. Published weight: 1 times the mean, added to the means
    of `contrastive_cross_entropy_loss` and of the cross-entropy, with K = 40
    and momentum 0.999.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if dtypes are wrong.

  As in TLlib, the loss is a divergence. The paper's cross-entropy is larger by
  the constant log(1 + K).

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
  dtype = ops.compute_dtype(queries)
  queries = queries.astype(dtype)
  own = jax.lax.stop_gradient(keys).astype(dtype)
  own = jnp.sum(queries * own, 1)
  return _contrastive_divergence(own, queries, labels, queue_keys, temperature)


@ops.validate
def contrastive_cross_entropy_loss(
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue_keys: Float[Array, "classes size dims"],
  head: Float[Array, "classes dims"],
  *,
  temperature: ArrayLike = 0.07,
  stop_head_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Contrastive cross-entropy (CCE) of Bi-Tuning: for the classifier.

  .. math::
    \ell = \operatorname{KL}(u \,\Vert\, p), \qquad
    p = \operatorname{softmax}(h_k \cdot w_y / \tau), \qquad
    u_k = \frac{[k \in \{h\} \cup Q_y]}{1 + K}

  The anchor is the head's weight vector w_y of the example's class. Its
  positives are the example's features h and the K queued keys Q_y of the class;
  the queued keys of all other classes are negatives.

  Args:
    features: `[batch, dims]`, of unit norm, by `homogeneous_directions`.
    labels: `[batch]`.
    queue_keys: `[classes, size, dims]`, the keys of a `KeyQueue`: homogeneous
      directions of the momentum encoder's features; no gradient. In TLlib they
      contain the keys of this batch.
    head: `[classes, dims]`, the homogeneous directions of the head's weights
      and biases.
    temperature: tau > 0. May be traced.
    stop_head_gradient: False lets gradients reach the head; TLlib stops them.

  Returns:
    One value an example. Published weight: 1 times the mean.

  Raises:
    ValueError: if shapes differ or a static temperature is not above 0.
    TypeError: if dtypes are wrong.

  As in TLlib, the loss is a divergence. The paper's cross-entropy is larger by
  the constant log(1 + K).

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
  dtype = ops.compute_dtype(features)
  head = head.astype(dtype)
  if stop_head_gradient:
    head = jax.lax.stop_gradient(head)
  anchors = head[ops.check_labels(labels, len(head))]
  own = jnp.sum(features.astype(dtype) * anchors, 1)
  return _contrastive_divergence(own, anchors, labels, queue_keys, temperature)


def _contrastive_divergence(
  own: Float[Array, " batch"],
  anchors: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue_keys: Float[Array, "classes size dims"],
  temperature: ArrayLike,
) -> Float[Array, " batch"]:
  """Returns KL(u || p) over an anchor's own score and its queue scores."""
  ops.check_positive("temperature", temperature)
  classes, size, _ = queue_keys.shape
  scale = ops.as_number("temperature", temperature, own.dtype)
  queue = jax.lax.stop_gradient(queue_keys).astype(own.dtype)
  scores = jnp.einsum("bd,ckd->bck", anchors, queue, precision="highest")
  scores, own = scores / scale, own / scale
  all_scores = jnp.concatenate([own[:, None], scores.reshape(own.size, -1)], 1)
  known = ops.check_labels(labels, classes)
  members = jax.nn.one_hot(known, classes, dtype=own.dtype)
  positives = jnp.sum(scores * members[..., None], (1, 2))
  mean = (own + positives) / (size + 1)
  values = jax.nn.logsumexp(all_scores, 1) - mean - jnp.log(size + 1.0)
  return ops.mask_unknown_labels(values, labels, classes)


def _unit_vectors(x: Float[Array, "... dims"]) -> Float[Array, "... dims"]:
  """Returns unit vectors; 0, with gradient 0, for the zero vector."""
  norm = ops.safe_norm(x, keepdims=True)
  return x / jnp.where(norm == 0, 1.0, norm)
