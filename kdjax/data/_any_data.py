"""Data of any kind, as examples by index or as a stream of batches."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kdjax.data._image_folder import image_folder
from kdjax.data._load import load

KINDS = (
  "a mapping of arrays such as {'image': x, 'label': y}, a pair (x, y) of "
  "arrays, a Source, a folder of images, the name of a data set, or an "
  "iterable of batches"
)
_MOST_EXAMPLES = 2**31 - 1


class ArrayExamples:
  """Examples in memory: a pytree of arrays `[n, ...]`.

  Attributes:
    arrays: entry -> array, or a pytree of arrays.
    nbytes: the size of all arrays.
  """

  def __init__(self, name: str, arrays: Mapping[str, Any]):
    if not arrays:
      raise ValueError(f"{name} is an empty mapping; expected {KINDS}.")
    self.arrays = {
      k: jax.tree.map(
        lambda x, k=k: _numbers(f"{name}[{k!r}]", x),
        v,
        is_leaf=lambda x: isinstance(x, list),
      )
      for k, v in arrays.items()
    }
    lengths: dict[int, str] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(self.arrays):
      where = name + jax.tree_util.keystr(path)
      if not x.shape:
        raise ValueError(f"{where} is a single number; expected [n, ...].")
      lengths.setdefault(x.shape[0], where)
    if len(lengths) > 1:
      (n, first), (m, other) = list(lengths.items())[:2]
      raise ValueError(
        f"{other} has {m} examples; expected {n}, the number of {first}."
      )
    (self._size,) = lengths or (0,)
    if not self._size:
      raise ValueError(f"{name} is empty; expected at least one example.")
    self.nbytes = sum(x.nbytes for x in jax.tree.leaves(self.arrays))

  def __len__(self) -> int:
    return self._size

  def read(self, indices: np.ndarray) -> dict[str, Any]:
    """Returns the examples at the indices, as a batch of NumPy arrays."""
    return jax.tree.map(lambda x: x[indices], self.arrays)

  def in_memory(self) -> "ArrayExamples":
    """Returns itself."""
    return self


class SourceExamples:
  """Examples of a source, read on demand.

  Attributes:
    nbytes: the size of all examples in memory, estimated from the first.
  """

  def __init__(self, name: str, source: Any, pair: Sequence[str] | None):
    self._name = name
    self._source = source
    self._pair = pair
    self.nbytes = len(source) * sum(
      x.nbytes for x in jax.tree.leaves(self.read(np.zeros(1, int)))
    )

  def __len__(self) -> int:
    return len(self._source)

  def read(self, indices: np.ndarray) -> dict[str, Any]:
    """Returns the examples at the indices, as a batch of NumPy arrays."""
    examples = [
      _entries(f"{self._name}[{i}]", self._source[int(i)], self._pair)
      for i in indices
    ]
    return stack(self._name, examples)

  def in_memory(self) -> ArrayExamples:
    """Reads all examples."""
    return ArrayExamples(self._name, self.read(np.arange(len(self))))


class BatchStream:
  """A stream of batches of one shape.

  A batch without a mask gets one. A batch that is shorter than the first is
  padded with its own first rows, whose mask is False. At its end, an iterable
  that can be read again restarts.

  Args:
    name: the name of the argument, for error messages.
    batches: the iterable.
    pair: the names of x and y in batches `(x, y)`, or None.
    parts: the names of the parts of a batch of several domains.
    batch_axes: the number of leading axes of examples.

  Attributes:
    taken: the number of batches taken.
  """

  def __init__(
    self,
    name: str,
    batches: Any,
    pair: Sequence[str] | None,
    *,
    parts: Sequence[str] = (),
    batch_axes: int = 1,
  ):
    self._name = name
    self._batches = batches
    self._pair = pair
    self._parts = parts
    self._axes = batch_axes
    self._iterator = iter(batches)
    self._sizes: dict[str, int] = {}
    self._pending: list[dict[str, Any]] = []
    self.taken = 0
    self.again = self._iterator is not batches

  @property
  def steps(self) -> int | None:
    """The number of batches of a pass, or None if it is unknown."""
    if not self.again or not hasattr(self._batches, "__len__"):
      return None
    return len(self._batches)

  def first(self) -> dict[str, Any]:
    """Returns the next batch without taking it."""
    if not self._pending:
      self._pending.append(self._read())
    return self._pending[0]

  def take(self) -> dict[str, Any]:
    """Returns the next batch."""
    batch = self._pending.pop() if self._pending else self._read()
    self.taken += 1
    return batch

  def one_pass(self) -> Iterator[dict[str, Any]]:
    """Reads all batches from the start."""
    return map(self._as_batch, iter(self._batches))

  def position(self) -> Any:
    """Returns the position for JSON, or None if the iterator has none."""
    read = getattr(self._iterator, "get_state", None)
    if read is None or self._pending:
      return None
    state = read()
    if isinstance(state, bytes):
      return {"text": state.decode("latin-1")}
    return {"state": state}

  def resume(self, position: Any, taken: int) -> None:
    """Goes to a position; without one, skips the batches already taken."""
    if position is None:
      while self.taken < taken:
        self.take()
      return
    self.first()  # The first batch sets the size of all batches.
    self._pending.clear()
    text = position.get("text")
    state = position.get("state") if text is None else text.encode("latin-1")
    self._iterator.set_state(state)  # ty: ignore
    self.taken = taken

  def _read(self) -> dict[str, Any]:
    try:
      raw = next(self._iterator)
    except StopIteration:
      if not self.again or not self.taken:
        what = "an iterator" if self.taken else "empty"
        raise ValueError(
          f"{self._name} is {what} and ended after {self.taken} batches; "
          "expected as many batches as steps, or an iterable that can restart, "
          "such as a list or a DataLoader."
        ) from None
      self._iterator = iter(self._batches)
      raw = next(self._iterator)
    return self._as_batch(raw)

  def _as_batch(self, raw: Any) -> dict[str, Any]:
    name = f"a batch of {self._name}"
    if self._parts and isinstance(raw, Mapping):
      missing = [part for part in self._parts if part not in raw]
      if missing:
        raise ValueError(
          f"{name} has {sorted(raw)}; expected the parts "
          f"{', '.join(self._parts)}."
        )
      return {
        part: self._masked(f"{name}[{part!r}]", raw[part], part)
        for part in self._parts
      }
    return self._masked(name, raw, "")

  def _masked(self, name: str, raw: Any, part: str) -> dict[str, Any]:
    batch = _entries(name, raw, self._pair)
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    sizes = {np.shape(x)[: self._axes] for _, x in leaves}
    if len(sizes) != 1 or any(len(x) < self._axes for x in sizes):
      shapes = {jax.tree_util.keystr(k): np.shape(x) for k, x in leaves}
      raise ValueError(
        f"{name} has entries of the shapes {shapes}; expected [batch, ...], "
        "with equal numbers of examples."
      )
    (size,) = sizes
    batch.setdefault("mask", np.ones(size, bool))
    batch["mask"] = batch["mask"].astype(bool)
    whole = self._sizes.setdefault(part, size[-1])
    if size[-1] == whole:
      return batch
    if size[-1] > whole or not size[-1] or self._axes > 1:
      raise ValueError(
        f"{name} has {size[-1]} examples; expected {whole}, as in the first "
        "batch, or fewer. A new shape would need a new compilation."
      )
    rows = np.arange(whole) % size[-1]
    padded = jax.tree.map(lambda x: x[rows], batch)
    real = np.arange(whole) < size[-1]
    mask = padded["mask"]
    padded["mask"] = mask & real.reshape(-1, *[1] * (mask.ndim - 1))
    return padded


AnyData = ArrayExamples | SourceExamples | BatchStream


def open_data(
  name: str,
  value: Any,
  *,
  pair: Sequence[str] | None = ("image", "label"),
  split: str = "train",
  data_dir: str | os.PathLike[str] | None = None,
  parts: Sequence[str] = (),
  batch_axes: int = 1,
) -> AnyData:
  """Opens data of any kind.

  Args:
    name: the name of the argument, for error messages.
    value: a mapping of arrays, a pair of arrays, a Source or another map-style
      data set, a folder of images, the name of a data set, or an iterable of
      batches.
    pair: the names of x and y in a pair (x, y), or None to refuse pairs.
    split: the split of a named data set.
    data_dir: the folder of the prepared tfds sets.
    parts: the names of the parts of a batch, for an iterable of batches.
    batch_axes: the number of leading axes of examples.

  Returns:
    An `ArrayExamples`, a `SourceExamples` or a `BatchStream`.

  Raises:
    TypeError: if the value is of another kind.
    ValueError: if the value is empty, or its arrays differ in length.
    FileNotFoundError: if the folder or the prepared set does not exist.
  """
  if isinstance(value, str | os.PathLike):
    if isinstance(value, os.PathLike) or pathlib.Path(value).is_dir():
      value = image_folder(value)
    else:
      value = load(value, split, data_dir=data_dir)
    return SourceExamples(name, value, None)
  if isinstance(value, Mapping):
    return ArrayExamples(name, value)
  if hasattr(value, "shape") or isinstance(value, bytes | int | float):
    what = (
      f"an array of shape {value.shape}"
      if hasattr(value, "shape")
      else (f"a {type(value).__name__}")
    )
    raise TypeError(f"{name} is {what}; expected {KINDS}.")
  if _is_pair(value) and all(hasattr(x, "shape") for x in value):
    return ArrayExamples(name, _entries(name, value, pair))
  if _is_source(name, value, pair):
    return SourceExamples(name, value, pair)
  if not isinstance(value, Iterable):
    raise TypeError(f"{name} is a {type(value).__name__}; expected {KINDS}.")
  return BatchStream(name, value, pair, parts=parts, batch_axes=batch_axes)


def stack(name: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Stacks examples of any entries, or raises an error for other shapes."""
  first = examples[0]
  batch = {}
  for key in first:
    values = [example[key] for example in examples]
    try:
      batch[key] = jax.tree.map(lambda *x: np.stack(x), *values)
    except (ValueError, KeyError) as error:
      raise ValueError(
        f"{name}: the examples' {key!r} do not fit into one batch ({error}); "
        "expected one shape for all."
      ) from error
  return batch


def _is_pair(value: Any) -> bool:
  return isinstance(value, tuple | list) and len(value) == 2


def _is_source(name: str, value: Any, pair: Sequence[str] | None) -> bool:
  """Tells whether a value has single examples by index."""
  sized: Callable[..., Any] | None = getattr(value, "__len__", None)
  if sized is None or not hasattr(value, "__getitem__"):
    return False
  if not len(value):
    raise ValueError(f"{name} is empty; expected at least one example.")
  if len(value) > _MOST_EXAMPLES:  # a data set that repeats without end
    return False
  element = _entries(f"{name}[0]", value[0], pair)
  scalar = any(np.ndim(x) == 0 for x in jax.tree.leaves(element))
  if isinstance(value, list | tuple):
    if scalar:
      raise TypeError(
        f"{name} is a {type(value).__name__} of examples; expected a mapping "
        "of arrays, {'image': np.stack(images), 'label': np.array(labels)}."
      )
    return False
  # Without a scalar entry, a mask or a label is an array: that of a batch.
  rows = [element[k] for k in ("mask", "label") if k in element]
  return scalar or not rows


def _entries(name: str, raw: Any, pair: Sequence[str] | None) -> dict[str, Any]:
  """Returns an example or a batch as a mapping of NumPy arrays."""
  if _is_pair(raw) and not isinstance(raw, Mapping):
    if pair is None:
      raise TypeError(
        f"{name} is a pair; expected a mapping with the names of its entries, "
        "such as {'image': x, 'label': y}."
      )
    raw = dict(zip(pair, raw, strict=True))
  if not isinstance(raw, Mapping):
    raise TypeError(
      f"{name} is a {type(raw).__name__}; expected a mapping of arrays, such "
      "as {'image': x, 'label': y}, or a pair (x, y)."
    )
  return {
    k: jax.tree.map(
      lambda x, k=k: _numbers(f"{name}[{k!r}]", x),
      v,
      is_leaf=lambda x: isinstance(x, list),
    )
    for k, v in raw.items()
  }


def _numbers(name: str, value: Any) -> np.ndarray | jax.Array:
  """Returns a NumPy array of numbers, or a JAX array of several processes."""
  if isinstance(value, jax.Array) and not value.is_fully_addressable:
    return value
  array = np.asarray(value)
  if array.dtype.kind in "OSUMm":
    raise TypeError(
      f"{name} has the dtype {array.dtype}; expected numbers. Remove this "
      "entry or convert it to numbers."
    )
  return array
