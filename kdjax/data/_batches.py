"""Shuffled, resumable batches of a source, read by grain."""

import functools
import sys
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kdjax import ops
from kdjax.data._optional_packages import require
from kdjax.data._sources import Source, check_source, entries_of, stack_examples


@runtime_checkable
class BatchIterator(Protocol):
  """The resumable iterator that `batches` returns.

  Attributes:
    get_state: returns the position as a small dict that JSON can store.
    set_state: goes to a position; the next batch is the one after it.

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
  """Batches of equal shape, with each example once an epoch.

  The last batch of an epoch is padded with other real examples of the source,
  which are False in "mask". No example is dropped, all batches have one shape
  and batch statistics are those of real images. An epoch has
  ceil(len(source) / batch_size) batches.

  On several hosts, every process calls this with the same arguments, except
  `shard_index=jax.process_index()`, and `shard_count=jax.process_count()`. A
  process reads only its rows of each global batch;
  `jax.make_array_from_process_local_data` joins them. The global batches do not
  depend on the number of hosts.

  Args:
    source: a source with images of one shape.
    batch_size: the examples of a global batch, a multiple of shard_count.
    seed: the seed of the order. Every epoch has a different order.
    epochs: the number of epochs; None for no end.
    shuffle: False keeps the order of the source.
    shard_index: the index of this process's part of each batch.
    shard_count: the number of processes that read.

  Returns:
    An iterator over NumPy batches {"image": [b, height, width, channels],
    "label": int32 [b], "mask": bool [b], "index": int32 [b]}, where
    b = batch_size / shard_count and "index" is the position in the source. Of a
    source that `pair` made, they have an entry for each modality. Save
    `get_state()` in a checkpoint; `set_state(state)` resumes with the batches
    that follow.

  Raises:
    TypeError: if the source is not a source or a number is not an integer.
    ValueError: if the source is empty, batch_size is not a positive multiple
      of shard_count, shard_index is not below shard_count, seed is negative or
      epochs is below 1.
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
  entries = entries_of(source)
  # Invalid examples fail here, not in a thread.
  stack_examples([source[0]], entries)
  ops.check_integer("batch_size", batch_size, 1)
  ops.check_integer("shard_count", shard_count, 1)
  ops.check_integer("seed", seed, 0)
  if epochs is not None:
    ops.check_integer("epochs", epochs, 1)
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

  @functools.lru_cache(maxsize=2)  # Grain reads ahead into the next epoch.
  def order(epoch: int) -> np.ndarray:
    if not shuffle:
      return np.arange(len(source))
    # RandomState gives the same order in all versions of NumPy, so that runs
    # resume. Grain's shuffle takes 0.4 ms an example for a small source.
    return np.random.RandomState((seed, epoch)).permutation(len(source))

  def read(step: int) -> dict[str, np.ndarray]:
    epoch, i = divmod(step, steps)
    indices = order(epoch)[i * batch_size : (i + 1) * batch_size]
    missing = batch_size - len(indices)
    # Pad with the next examples of the source, not with copies of the few
    # remaining ones, which would change the batch statistics.
    padding = (indices[-1] + 1 + np.arange(missing)) % len(source)
    padded = np.concatenate([indices, padding])[mine].astype(np.int32)
    batch = stack_examples([source[int(i)] for i in padded], entries)
    mask = (np.arange(batch_size) < len(indices))[mine]
    return {**batch, "mask": mask, "index": padded}

  grain = require("grain")
  # An element is a batch, not an example: no batch extends into the next epoch,
  # and reading a few elements ahead is enough.
  dataset = grain.MapDataset.range(steps * (epochs or sys.maxsize // steps))
  options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
  return iter(dataset.map(read).to_iter_dataset(options))
