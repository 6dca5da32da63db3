"""Shuffled, batched, resumable reading of a source, by grain."""

import functools
import sys
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kdjax.data._optional_packages import require
from kdjax.data._sources import Source
from kdjax.data._sources import check_source
from kdjax.data._sources import stack_examples
from kdjax.ops import check_integer


@runtime_checkable
class BatchIterator(Protocol):
  """What `batches` returns: an iterator that knows where it is.

  Attributes:
    get_state: returns the position as a small dict that JSON can hold.
    set_state: goes to such a position; the next batch is the one that would
      have come.

  References:
    `grain.DatasetIterator
    <https://google-grain.readthedocs.io/en/latest/grain.dataset.html>`_.
  """

  def __iter__(self) -> "BatchIterator": ...

  def __next__(self) -> dict[str, np.ndarray]: ...

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: dict[str, Any], /) -> None: ...


def batches(
  source: Source,
  batch_size: int,
  *,
  seed: int = 0,
  epochs: int | None = None,
  shuffle: bool = True,
  shard_index: int = 0,
  shard_count: int = 1,
) -> BatchIterator:
  """Batches of one shape, each example once an epoch, from any position.

  The last batch of an epoch is filled up with other real examples of the
  source, marked False in "mask", so that no example is dropped, no shape is
  new and batch statistics stay those of real images. An epoch has
  ceil(len(source) / batch_size) batches and ends where its last batch ends.

  On several hosts every process calls this with the same arguments and its
  own `shard_index=jax.process_index()`, `shard_count=jax.process_count()`;
  it reads only its rows of each global batch, to be joined by
  `jax.make_array_from_process_local_data`. The global batches do not depend
  on the number of hosts.

  Args:
    source: any source whose images share one shape.
    batch_size: examples in a global batch, a multiple of shard_count.
    seed: of the order; each epoch has another order.
    epochs: how many; None never ends.
    shuffle: False keeps the order of the source.
    shard_index: which part of each batch this process reads.
    shard_count: how many processes read.

  Returns:
    An iterator over NumPy batches {"image": [b, height, width, channels],
    "label": int32 [b], "mask": bool [b], "index": int32 [b]}, where
    b = batch_size / shard_count and "index" is the place in the source. Its
    `get_state()` goes into a checkpoint, `set_state(state)` resumes with
    exactly the batches that would have come.

  Raises:
    TypeError: if it is no source or a number is no integer.
    ValueError: if the source is empty, batch_size is not a positive multiple
      of shard_count, shard_index is not below shard_count, seed is negative or
      epochs below 1.
    ImportError: if the extra is not installed.

  Examples:
    >>> from kdjax.data import load
    >>> iterator = batches(load("digits", "train"), 500, epochs=1)
    >>> [int(batch["mask"].sum()) for batch in iterator]
    [500, 500, 198]

  References:
    `Grain's MapDataset
    <https://google-grain.readthedocs.io/en/latest/tutorials/dataset_basic_tutorial.html>`_.
  """
  check_source(source)
  if len(source) == 0:
    raise ValueError("source is empty; expected at least one example.")
  stack_examples([source[0]])  # a bad example fails here, not in a thread
  check_integer("batch_size", batch_size, 1)
  check_integer("shard_count", shard_count, 1)
  check_integer("seed", seed, 0)
  if epochs is not None:
    check_integer("epochs", epochs, 1)
  if batch_size % shard_count:
    raise ValueError(
      f"batch_size is {batch_size}; expected a positive multiple of "
      f"shard_count = {shard_count}."
    )
  if not 0 <= shard_index < shard_count:
    raise ValueError(
      f"shard_index is {shard_index}; expected a number in "
      f"0..{shard_count - 1}."
    )
  rows = batch_size // shard_count
  mine = slice(shard_index * rows, (shard_index + 1) * rows)
  steps = -(-len(source) // batch_size)

  @functools.lru_cache(maxsize=2)  # the next epoch's is read ahead
  def order(epoch: int) -> np.ndarray:
    if not shuffle:
      return np.arange(len(source))
    # NumPy's frozen generator: a run resumes under any version. Grain's own
    # shuffle takes 0.4 ms an example of a small source.
    return np.random.RandomState((seed, epoch)).permutation(len(source))

  def read(step: int) -> dict[str, np.ndarray]:
    epoch, i = divmod(step, steps)
    indices = order(epoch)[i * batch_size : (i + 1) * batch_size]
    missing = batch_size - len(indices)
    # Neighbors of the last example, not copies of the few that are left:
    # these would spoil the statistics of a batch normalization.
    padding = (indices[-1] + 1 + np.arange(missing)) % len(source)
    padded = np.concatenate([indices, padding])[mine].astype(np.int32)
    batch = stack_examples([source[int(i)] for i in padded])
    mask = (np.arange(batch_size) < len(indices))[mine]
    return {**batch, "mask": mask, "index": padded}

  grain = require("grain")
  # A step, not an example, is an element: no batch reaches into the next
  # epoch, and a few elements read ahead are enough.
  dataset = grain.MapDataset.range(steps * (epochs or sys.maxsize // steps))
  options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
  return iter(dataset.map(read).to_iter_dataset(options))
