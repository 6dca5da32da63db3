"""Sources of examples, and subsets of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kdjax import ops


@runtime_checkable
class Source(Protocol):
  """A data set with a length and one example for each index.

  An example is `{"image": [height, width, channels], "label": int}`. Images are
  uint8 in 0..255, or floating point in any scale. Every object with these two
  methods is a source: the data sets of `load`, an `ArraySource`, an instance of
  a class of your own.

  Attributes:
    labels: optional, int [n]. With it, functions that need only labels do not
      read images.

  References:
    `Grain's RandomAccessDataSource
    <https://google-grain.readthedocs.io/en/latest/data_sources.html>`_.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class ArraySource:
  """A source of arrays in memory.

  Attributes:
    images: [n, height, width, channels].
    labels: int [n].

  References:
    `Grain's RandomAccessDataSource
    <https://google-grain.readthedocs.io/en/latest/data_sources.html>`_.
  """

  images: np.ndarray
  labels: np.ndarray

  def __post_init__(self):
    for name, values in (("images", self.images), ("labels", self.labels)):
      if not hasattr(values, "shape"):
        raise TypeError(
          f"{name} is a {type(values).__name__}; expected an array."
        )
    if self.images.ndim != 4:
      raise ValueError(
        f"images has shape {self.images.shape}; expected [n, height, width, "
        "channels]."
      )
    if self.labels.shape != self.images.shape[:1]:
      raise ValueError(
        f"labels has shape {self.labels.shape}; expected "
        f"{self.images.shape[:1]}, as in images."
      )
    as_integers("labels", self.labels, kinds="iub")

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    return {"image": self.images[index], "label": int(self.labels[index])}


class _Subset:
  """The examples of another source at given indices, read on demand."""

  def __init__(self, source: Source, indices: np.ndarray):
    self._source = source
    self._indices = indices

  @property
  def labels(self) -> np.ndarray:
    return _labels(self._source)[self._indices]

  @property
  def entries(self) -> tuple[str, ...]:
    return entries_of(self._source)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    return self._source[int(self._indices[index])]


def as_arrays(source: Source) -> dict[str, np.ndarray]:
  """Reads a whole source into memory.

  Args:
    source: a source with images of one shape.

  Returns:
    `{"image": [n, height, width, channels], "label": int32 [n]}`; images
    keep their dtype. A source of `pair` has an entry for each modality.

  Raises:
    TypeError: if the source is not a source.
    ValueError: if the source is empty or its images differ in shape.

  Examples:
    >>> from kdjax.data import load
    >>> test = as_arrays(load("digits", "test"))
    >>> test["image"].shape, test["image"].dtype
    ((599, 8, 8, 1), dtype('uint8'))

  References:
    `tfds.as_numpy with batch_size=-1
    <https://www.tensorflow.org/datasets/api_docs/python/tfds/as_numpy>`_.
  """
  check_source(source)
  return stack_examples(
    [source[i] for i in range(len(source))], entries_of(source)
  )


def entries_of(source: Any) -> tuple[str, ...]:
  """The inputs that an example has, by name."""
  return getattr(source, "entries", ("image",))


def stack_examples(
  examples: Sequence[Any], entries: Sequence[str] = ("image",)
) -> dict[str, np.ndarray]:
  """Stacks examples to a batch, or raises an error for different shapes."""
  if not examples:
    raise ValueError("source is empty; expected at least one example.")
  what = "an example of the source"
  stacked = {}
  for name in entries:
    rows = [
      np.asarray(ops.get_entry(what, example, name)) for example in examples
    ]
    for row in rows:
      if row.shape != rows[0].shape:
        raise ValueError(
          f"{name}s of this source differ in shape, {rows[0].shape} and "
          f"{row.shape}; expected one shape. Resize the {name}s in the source."
        )
    stacked[name] = np.stack(rows)
  labels = [ops.get_entry(what, example, "label") for example in examples]
  return stacked | {"label": np.asarray(labels, np.int32)}


def subset(source: Source, indices: np.ndarray | Sequence[int]) -> Source:
  """Selects the examples of a source at given indices, in that order.

  Args:
    source: any source. Examples are read on demand.
    indices: int [m], each in 0..len(source) - 1. For a mask, pass
      `np.flatnonzero(mask)`.

  Returns:
    A source of m examples.

  Raises:
    TypeError: if the indices are not integers; a mask is not accepted.
    ValueError: if an index is out of range.

  Examples:
    >>> from kdjax.data import load
    >>> len(subset(load("digits", "train"), range(10)))
    10

  References:
    `torch.utils.data.Subset
    <https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.Subset>`_.
  """
  indices = as_integers("indices", indices)
  if indices.size and not 0 <= indices.min() <= indices.max() < len(source):
    raise ValueError(
      f"indices span {indices.min()} to {indices.max()}; expected numbers in "
      f"0..{len(source) - 1}."
    )
  return _Subset(source, indices)


class _Pairs:
  """The examples of several sources, row by row."""

  def __init__(self, sources: Mapping[str, Source], labels: np.ndarray):
    self._sources, self.labels = dict(sources), labels
    self.entries = tuple(sources)

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    rows = {
      name: ops.get_entry("an example of the source", source[index], "image")
      for name, source in self._sources.items()
    }
    return rows | {"label": int(self.labels[index])}


def pair(sources: Mapping[str, Source]) -> Source:
  """Pairs the modalities of the same examples.

  Args:
    sources: modality -> source of as many examples in the same order, such as
      images and the spectrograms of their names as `[time, bands, 1]`.

  Returns:
    A source whose examples have an entry for each modality, and the label.

  Raises:
    TypeError: if there is no mapping to sources.
    ValueError: if there is none, a modality is named "label", "mask" or
      "index", or the sources differ in length or in a label.

  Examples:
    >>> digits = ArraySource(np.zeros((2, 8, 8, 1)), np.array([3, 7]))
    >>> sounds = ArraySource(np.ones((2, 20, 12, 1)), np.array([3, 7]))
    >>> example = pair({"image": digits, "sound": sounds})[1]
    >>> example["image"].shape, example["sound"].shape, example["label"]
    ((8, 8, 1), (20, 12, 1), 7)

  References:
    Gupta et al., `Cross modal distillation for supervision transfer
    <https://arxiv.org/abs/1507.00448>`_, 2016.
  """
  if not isinstance(sources, Mapping):
    raise TypeError(
      f"sources is a {type(sources).__name__}; expected a mapping, modality -> "
      "Source."
    )
  if not sources or not {"label", "mask", "index"}.isdisjoint(sources):
    raise ValueError(
      f"sources has the names {list(sources)}; expected one or more, other "
      "than label, mask and index."
    )
  (first, one), *others = sources.items()
  labels = _labels(one)
  for name, other in others:
    own = _labels(other)
    if len(own) != len(labels):
      raise ValueError(
        f"sources[{name!r}] has {len(own)} examples and sources[{first!r}] "
        f"{len(labels)}; expected pairs: example i of each is the same one."
      )
    if (apart := np.flatnonzero(own != labels)).size:
      raise ValueError(
        f"sources[{name!r}] has the label {own[apart[0]]} at {apart[0]} and "
        f"sources[{first!r}] {labels[apart[0]]}; expected pairs: example i of "
        "each is the same one."
      )
  return _Pairs(sources, labels)


def split(
  source: Source, fraction: float, *, seed: int = 0
) -> tuple[Source, Source]:
  """Splits a source into two at random, stratified by class.

  Args:
    source: any labeled source.
    fraction: the fraction of each class, rounded, in the second source.
    seed: the seed of the split. A seed gives the same split on every machine
      and with every version of NumPy.

  Returns:
    The two sources, for example for training and for validation. Every example
    is in one of them.

  Raises:
    ValueError: if fraction is outside [0, 1].

  Examples:
    >>> from kdjax.data import load
    >>> train, validation = split(load("digits", "train"), 0.25)
    >>> len(train), len(validation)
    (899, 299)

  References:
    `sklearn.model_selection.StratifiedShuffleSplit
    <https://scikit-learn.org/stable/modules/cross_validation.html>`_.
  """
  ops.check_range("fraction", fraction, 0.0, 1.0)
  second = held_out(_labels(source), fraction, seed=seed)
  return (
    _Subset(source, np.flatnonzero(~second)),
    _Subset(source, np.flatnonzero(second)),
  )


def few_per_class(source: Source, count: int, *, seed: int = 0) -> Source:
  """Keeps a few random examples of each class.

  Args:
    source: any labeled source.
    count: the number of examples of each class. All examples of a smaller class
      are kept.
    seed: the seed of the choice. With the same seed, a larger count gives a
      superset.

  Returns:
    A source of at most `count` examples for each class.

  Raises:
    ValueError: if count is not positive.

  Examples:
    >>> from kdjax.data import load
    >>> len(few_per_class(load("digits", "train"), 5))
    50

  References:
    Sohn et al., `FixMatch <https://arxiv.org/abs/2001.07685>`_, 2020, for the
    sets of labeled examples.
  """
  if count < 1:
    raise ValueError(f"count is {count}; expected a number above 0.")
  kept = _rank_in_class(_labels(source), seed) < count
  return _Subset(source, np.flatnonzero(kept))


def without_classes(source: Source, classes: Sequence[int]) -> Source:
  """Removes all examples of given classes; the other labels do not change.

  Args:
    source: any labeled source.
    classes: the labels of the examples to remove.

  Returns:
    A source of the other examples.

  Raises:
    TypeError: if the classes are not integers.

  Examples:
    >>> from kdjax.data import load
    >>> train = without_classes(load("digits", "train"), [3])
    >>> sorted(set(as_arrays(train)["label"].tolist()))
    [0, 1, 2, 4, 5, 6, 7, 8, 9]

  References:
    Hinton et al., `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 3: the missing digit.
  """
  kept = ~np.isin(
    _labels(source), as_integers("classes", np.atleast_1d(classes))
  )
  return _Subset(source, np.flatnonzero(kept))


def held_out(labels: np.ndarray, fraction: float, *, seed: int) -> np.ndarray:
  """Returns True for a random fraction of each class, bool [n]."""
  counts = np.bincount(labels)
  return _rank_in_class(labels, seed) < np.rint(fraction * counts)[labels]


def _labels(source: Source) -> np.ndarray:
  """Returns all labels of a source, int [n], without images if possible."""
  check_source(source)
  labels = getattr(source, "labels", None)
  if labels is None:
    labels = [source[i]["label"] for i in range(len(source))]
  return as_integers("the source's labels", labels, kinds="iub")


def check_source(source: Any) -> None:
  """Raises TypeError unless a value has a length and examples by index."""
  fields = getattr(getattr(source, "dtype", None), "names", None)
  array = hasattr(source, "dtype") and not fields
  sized = hasattr(source, "__len__") and hasattr(source, "__getitem__")
  if isinstance(source, Mapping | tuple | str) or array or not sized:
    raise TypeError(
      f"source is a {type(source).__name__}; expected a Source, such as "
      "ArraySource(images, labels)."
    )


def as_integers(name: str, values: Any, kinds: str = "iu") -> np.ndarray:
  """Returns int64 `[n]`; raises TypeError for booleans and floats."""
  array = np.asarray(values)
  if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
    raise TypeError(
      f"{name} has dtype {array.dtype} and shape {array.shape}; expected "
      "integers, [n]."
    )
  return array.astype(np.int64)


def _rank_in_class(labels: np.ndarray, seed: int) -> np.ndarray:
  """Returns the rank of each example in a random order of its class."""
  # A split must not change with the version of NumPy: RandomState guarantees
  # that, default_rng does not.
  order = np.random.RandomState(seed).permutation(len(labels))
  order = order[np.argsort(labels[order], kind="stable")]
  first = np.searchsorted(labels[order], labels[order])
  ranks = np.empty(len(labels), np.int64)
  ranks[order] = np.arange(len(labels)) - first
  return ranks
