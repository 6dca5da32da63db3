"""A buffer of examples that a stream has shown, by reservoir sampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from kdjax import ops


@ops.exportable
class Reservoir(NamedTuple):
  """A buffer that holds a uniform sample of all examples seen.

  Attributes:
    examples: a pytree of arrays `[size, ...]`; rows not yet filled are 0.
    seen: the number of examples that the stream has shown, int32.

  References:
    Vitter, `Random sampling with a reservoir
    <https://dl.acm.org/doi/10.1145/3147.3165>`_, 1985, algorithm R.
  """

  examples: PyTree[Shaped[Array, "size ..."]]
  seen: Int[Array, ""]


@ops.validate
def reservoir_init(examples: PyTree, *, size: int) -> Reservoir:
  """An empty reservoir.

  Args:
    examples: a pytree of arrays (or `jax.ShapeDtypeStruct`) `[batch, ...]` like
      the ones to come: inputs, labels, logits, task numbers. Only shapes and
      dtypes are read.
    size: the number of examples that the reservoir can hold.

  Returns:
    A `Reservoir`.

  Raises:
    ValueError: if there is no array, or one has no axis of examples, or the
      size is below 1.
    TypeError: if the size is no integer.

  Examples:
    >>> state = reservoir_init({"x": jnp.zeros((4, 2))}, size=3)
    >>> state.examples["x"].shape
    (3, 2)

  References:
    Vitter, `Random sampling with a reservoir
    <https://dl.acm.org/doi/10.1145/3147.3165>`_, 1985.
  """
  ops.check_integer("reservoir_init: size", size, 1)
  ops.leading_size("reservoir_init: examples", examples)
  rows = jax.tree.map(
    lambda x: jnp.zeros((size, *jnp.shape(x)[1:]), jnp.result_type(x)), examples
  )
  return Reservoir(rows, jnp.zeros((), jnp.int32))


@ops.validate
def reservoir_update(
  state: Reservoir,
  key: Array,
  examples: PyTree,
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Reservoir:
  """Reservoir sampling: shows a batch of the stream to the buffer.

  The n-th example of the stream enters with probability size / n, in the place
  of a random one. After any number of examples, each of them is in the buffer
  with equal probability. Tasks and their borders do not matter.

  Args:
    state: the reservoir.
    key: the random key; the same one on all devices.
    examples: a pytree of arrays `[batch, ...]`, of the structure of the first.
    where: `[batch]`, True for the examples to show.
    axis_name: the mapped axis that holds the rest of the batch: each device
      takes the examples of all devices, so that the buffers stay equal.

  Returns:
    The new state.

  Raises:
    ValueError: if the structure or a shape is not that of the buffer.

  Examples:
    >>> state = reservoir_init(jnp.zeros((1,)), size=4)
    >>> state = reservoir_update(state, jax.random.key(0), jnp.arange(1.0, 4.0))
    >>> print(state.examples, state.seen)
    [1. 2. 3. 0.] 3

  References:
    Vitter, `Random sampling with a reservoir
    <https://dl.acm.org/doi/10.1145/3147.3165>`_, 1985; Riemer et al., `Learning
    to learn without forgetting <https://arxiv.org/abs/1810.11910>`_, 2019.
  """
  name = "reservoir_update"
  batch = ops.leading_size(f"{name}: examples", examples)
  found = jax.tree.structure(examples)
  kept = jax.tree.structure(state.examples)
  if found != kept:
    raise ValueError(
      f"{name}: examples have the structure {found}; expected {kept}, that of "
      "the buffer."
    )
  for (path, buffer), rows in zip(
    jax.tree_util.tree_leaves_with_path(state.examples),
    jax.tree.leaves(examples),
    strict=True,
  ):
    if jnp.shape(rows)[1:] != buffer.shape[1:]:
      raise ValueError(
        f"{name}: examples{jax.tree_util.keystr(path)} has shape "
        f"{jnp.shape(rows)}; expected (batch, "
        f"{', '.join(map(str, buffer.shape[1:]))}), as in the buffer."
      )
  mask = jnp.ones(batch, bool) if where is None else jnp.asarray(where)
  if mask.shape != (batch,):
    raise ValueError(
      f"{name}: where has shape {mask.shape}; expected ({batch},), one value "
      "an example."
    )
  examples, mask = jax.tree.map(
    lambda x: ops.gather_replicated(jnp.asarray(x), axis_name), (examples, mask)
  )
  size = ops.leading_size(f"{name}: state.examples", state.examples)
  number = state.seen + jnp.cumsum(mask, dtype=jnp.int32) - 1
  drawn = jax.random.randint(key, mask.shape, 0, jnp.maximum(number, 0) + 1)
  slot = jnp.where(number < size, number, drawn)
  slot = jnp.where(mask & (slot < size), slot, size)
  # Of several examples for one place the last one stays. An index out of range
  # drops an example, so that each place is written at most once.
  order = jnp.arange(slot.size)
  later = (slot[:, None] == slot[None]) & (order[:, None] < order[None])
  slot = jnp.where(jnp.any(later, 1), size, slot)
  rows = jax.tree.map(
    lambda b, x: b.at[slot].set(
      jax.lax.stop_gradient(x).astype(b.dtype), mode="drop"
    ),
    state.examples,
    examples,
  )
  return Reservoir(rows, state.seen + jnp.sum(mask, dtype=jnp.int32))


@ops.validate
def reservoir_sample(
  state: Reservoir, key: Array, size: int
) -> tuple[PyTree, Bool[Array, " size"]]:
  """Replay: draws different examples from a reservoir.

  Args:
    state: the reservoir.
    key: the random key.
    size: the number of examples.

  Returns:
    The examples, a pytree of arrays `[size, ...]`, and `[size]`, True for those
    that the buffer had: while it holds fewer than `size`, the rest is masked.
    An empty buffer gives a mask of False, with which a loss is 0.

  Raises:
    ValueError: if `size` is above the number that the buffer can hold.
    TypeError: if the size is no integer.

  Examples:
    >>> state = reservoir_init(jnp.zeros((1,)), size=4)
    >>> state = reservoir_update(state, jax.random.key(0), jnp.arange(1.0, 3.0))
    >>> examples, where = reservoir_sample(state, jax.random.key(1), 3)
    >>> print(jnp.sum(examples[where]), where)
    3.0 [ True  True False]

  References:
    Vitter, `Random sampling with a reservoir
    <https://dl.acm.org/doi/10.1145/3147.3165>`_, 1985.
  """
  ops.check_integer("reservoir_sample: size", size, 1)
  capacity = ops.leading_size("reservoir_sample: examples", state.examples)
  if size > capacity:
    raise ValueError(
      f"reservoir_sample: size is {size}; expected at most {capacity}, what "
      "the buffer can hold."
    )
  filled = jnp.arange(capacity) < state.seen
  priority = jnp.where(filled, jax.random.uniform(key, (capacity,)), -1.0)
  _, chosen = jax.lax.top_k(priority, size)
  return jax.tree.map(lambda x: x[chosen], state.examples), filled[chosen]
