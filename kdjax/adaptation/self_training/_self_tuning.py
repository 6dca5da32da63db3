"""Self-tuning: pseudo-group contrast (PGC) with a queue of keys."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.exportable
class SelfTuningQueue(NamedTuple):
  """The latest keys of each class.

  Attributes:
    keys: `[classes, size, dims]`, of length 1.
    position: `[classes]`, the slot of the next key of each class.
  """

  keys: Float[Array, "classes size dims"]
  position: Int[Array, " classes"]


@ops.validate
def self_tuning_init(
  key: Any, *, num_classes: int, dims: int, size: int = 32
) -> SelfTuningQueue:
  """Self-tuning: the queue before training, random unit vectors.

  Args:
    key: a JAX random key.
    num_classes: the number of classes.
    dims: the width of the projections.
    size: the number of keys of each class. Published: 32.

  Returns:
    The queue, a pytree; store it with the train state.

  Raises:
    ValueError: if a size is not positive.
    TypeError: if a size is not an integer.

  Examples:
    >>> queue = self_tuning_init(jax.random.key(0), num_classes=3, dims=4)
    >>> queue.keys.shape
    (3, 32, 4)

  References:
    Wang et al., `Self-tuning for data-efficient deep learning
    <https://arxiv.org/abs/2102.12903>`_, 2021.
  """
  sizes = {"num_classes": num_classes, "dims": dims, "size": size}
  for name, value in sizes.items():
    ops.check_integer(name, value, 1)
  keys = jax.random.normal(key, (num_classes, size, dims))
  return SelfTuningQueue(
    keys / ops.safe_norm(keys, keepdims=True),
    jnp.zeros(num_classes, jnp.int32),
  )


@ops.validate
def self_tuning_loss(
  queries: Float[Array, "batch dims"],
  keys: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  queue: SelfTuningQueue,
  *,
  temperature: ArrayLike = 0.07,
) -> Float[Array, " batch"]:
  r"""Self-tuning: pseudo-group contrast (PGC).

  .. math::
    \ell_i = \frac{1}{K + 1} \sum_{k^+} \Bigl(\log \frac{1}{K + 1}
      - \log \frac{\exp(q_i \cdot k^+ / T)}{\sum_k \exp(q_i \cdot k / T)}
      \Bigr)

  a divergence from the uniform distribution over K + 1 positives: the key of
  the example and the K keys of its (pseudo-)class in the queue. The sum over k
  includes the key of the example and all keys of all classes. A wrong label has
  a smaller loss than with the cross-entropy.

  Args:
    queries: `[batch, dims]`, projections of length 1; they get gradient.
    keys: `[batch, dims]`, of the averaged encoder for another view; no
      gradient.
    labels: `[batch]`, true labels, or predictions of the query classifier.
    queue: the queue before this batch. Call `self_tuning_update` afterwards.
    temperature: T > 0. May be traced.

  Returns:
    One value an example. Published weight: 1, once for labeled and once for
    unlabeled examples.

  Raises:
    ValueError: if widths differ or a static temperature is not above 0.

  Examples:
    >>> queue = SelfTuningQueue(jnp.eye(2)[:, None], jnp.zeros(2, jnp.int32))
    >>> query, label = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> print(self_tuning_loss(query, query, label, queue, temperature=0.01))
    [0.]

  References:
    Wang et al., `Self-tuning for data-efficient deep learning
    <https://arxiv.org/abs/2102.12903>`_, 2021.
  """
  ops.check_positive("temperature", temperature)
  _check_width("self_tuning_loss", queue, queries)
  classes, size, _ = queue.keys.shape
  dtype = jnp.promote_types(
    ops.compute_dtype(queries), ops.compute_dtype(queue.keys)
  )
  scale = ops.as_number("temperature", temperature, dtype)
  queries = queries.astype(dtype)
  keys = jax.lax.stop_gradient(keys).astype(dtype)
  bank = jax.lax.stop_gradient(queue.keys).astype(dtype)
  own = jnp.sum(queries * keys, -1)
  others = jnp.einsum(
    "bd,ckd->bck", queries, bank, precision=jax.lax.Precision.HIGHEST
  )
  logits = jnp.concatenate(
    [own[:, None], others.reshape(own.size, classes * size)], 1
  )
  log_p = jax.nn.log_softmax(logits / scale, -1)
  member = ops.one_hot_labels(labels, classes, dtype)
  of_class = jnp.sum(
    log_p[:, 1:].reshape(-1, classes, size) * member[..., None], (1, 2)
  )
  positives = size + 1
  return -(log_p[:, 0] + of_class) / positives - jnp.log(
    jnp.asarray(positives, dtype)
  )


@ops.validate
def self_tuning_update(
  queue: SelfTuningQueue,
  keys: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
) -> SelfTuningQueue:
  """Self-tuning: writes each key to the oldest slot of its class.

  Args:
    queue: the queue so far.
    keys: `[batch, dims]`, the keys of this batch. On several devices, gather
      them first.
    labels: `[batch]`. A key with a negative label is not written.

  Returns:
    The new queue, without gradient. A label that is no class makes all keys
    NaN.

  Raises:
    ValueError: if widths differ.

  Examples:
    >>> queue = SelfTuningQueue(jnp.zeros((2, 1, 2)), jnp.zeros(2, jnp.int32))
    >>> self_tuning_update(queue, jnp.eye(2)[:1], jnp.array([1])).keys[1]
    Array([[1., 0.]], dtype=float32)

  References:
    Wang et al., `Self-tuning for data-efficient deep learning
    <https://arxiv.org/abs/2102.12903>`_, 2021.
  """
  _check_width("self_tuning_update", queue, keys)
  classes, size, _ = queue.keys.shape
  keys = jax.lax.stop_gradient(keys).astype(queue.keys.dtype)

  def put(
    carry: SelfTuningQueue, item: tuple[Array, Array]
  ) -> tuple[SelfTuningQueue, None]:
    row, label = item
    # JAX drops writes out of range; a negative index would wrap around.
    label = jnp.where(label >= 0, label, classes)
    slot = carry.position.at[label].get(mode="fill", fill_value=0)
    return SelfTuningQueue(
      carry.keys.at[label, slot].set(row, mode="drop"),
      carry.position.at[label].set((slot + 1) % size, mode="drop"),
    ), None

  new = jax.lax.scan(put, queue, (keys, labels))[0]
  ops.check_labels(jnp.maximum(labels, 0), classes)
  lost = jnp.any(labels >= classes)
  return new._replace(keys=jnp.where(lost, jnp.nan, new.keys))


def _check_width(
  name: str, queue: SelfTuningQueue, rows: Float[Array, "batch dims"]
) -> None:
  if queue.keys.shape[-1] != rows.shape[-1]:
    raise ValueError(
      f"{name}: queue has keys of width {queue.keys.shape[-1]}; expected "
      f"{rows.shape[-1]}, the width of the queries or keys."
    )
