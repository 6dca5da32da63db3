"""Reading of a teacher cache: stored outputs of a teacher."""

import functools
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from kdjax import ops
from kdjax.data._optional_packages import require
from kdjax.data._teacher_cache_records import (
  Augment,
  check_header,
  describe,
  digests,
  num_shards,
  parse,
  probe,
  read_header,
  shard_path,
  shard_rows,
  unpack,
)


class Shard(NamedTuple):
  """A file and its records, as array_record reads them."""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


class TeacherCache:
  """Teacher cache: the stored outputs of a teacher for augmented examples.

  Every record contains the index of its example, the augmentation seed, a
  fingerprint of the teacher's input and a fingerprint of the header. All are
  compared with the request, so that no output of another example is returned.

  Attributes:
    header: the `TeacherCacheHeader`.

  Args:
    path: the folder that `write_teacher_cache` wrote.
    augment: the augmentation of the student's images by `augment_examples`;
      None without augmentation.
    dataset: the expected name of the data set.
    teacher: the expected `fingerprint`.
    num_classes: the expected number of classes.

  Raises:
    FileNotFoundError: if the folder contains no cache.
    ValueError: if the cache has another augmentation, data set or teacher, or
      its header is damaged.
    ImportError: if array_record is not installed.

  References:
    Shen and Xing, `A fast knowledge distillation framework for visual
    recognition <https://arxiv.org/abs/2112.01528>`_, 2021.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    *,
    augment: Augment | None = None,
    dataset: str | None = None,
    teacher: str | None = None,
    num_classes: int | None = None,
  ):
    self._path = pathlib.Path(path)
    if not (self._path / "header.json").exists():
      raise FileNotFoundError(
        f"{path} has no header.json; expected a folder that "
        "write_teacher_cache wrote."
      )
    header = read_header(self._path)
    wanted = {
      "dataset": dataset,
      "teacher": teacher,
      "num_classes": num_classes,
      "augmentation": probe(augment, *parse(header.image)),
    }
    self.header = check_header(
      self._path, {k: v for k, v in wanted.items() if v is not None}
    )
    self._open = functools.cache(self._open_seed)

  def attach(self, batch: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Adds the teacher's outputs to a batch, after a check of its images.

    Args:
      batch: with `"index"` and `"image"`, the images before augmentation, or
        with the entry that the cache was written for.
      seed: the augmentation seed.

    Returns:
      The batch with `"teacher"`, as `lookup` returns it; for a
      `kdjax.training.CachedTeacher`.

    Raises:
      ValueError: as `lookup`, and if an image differs from that of its index.
    """
    name = self.header.inputs
    index, images = (
      np.asarray(ops.get_entry(f"{self._path}: batch", batch, key))
      for key in ("index", name)
    )
    what = "images" if name == "image" else f"rows of {name!r}"
    if len(index) != len(images):
      raise ValueError(
        f"{self._path}: batch has {len(images)} {what}; expected one for each "
        f"of {len(index)} indices."
      )
    if len(images) and describe(images[0]) != self.header.image:
      raise ValueError(
        f"{self._path}: batch has {what} {describe(images[0])}; expected "
        f"{self.header.image}, not yet augmented."
      )
    records = self._read(index, seed)
    self._check(name, records["inputs"], digests(images), index, seed)
    return batch | {"teacher": unpack(self.header, records)}

  def lookup(self, index: Any, seed: int) -> dict[str, np.ndarray]:
    """Returns the teacher's outputs by index; `attach` also checks images.

    Args:
      index: int `[b]`, positions in the data set.
      seed: the augmentation seed.

    Returns:
      `{"logits": [b, ..., classes]}` in the dtype of the cache. With `top_k`,
      `{"ids": int32 [b, ..., k], "values": [b, ..., k], "rest": float32
      [b, ...]}`: the k most probable classes, their logits and the log-sum-exp
      of all other logits. With `keep`, the arrays that it returned.

    Raises:
      ValueError: if an index is out of range or not an integer, a shard is
        damaged, or a record belongs to another example.
      FileNotFoundError: if not all examples of the seed are written.
    """
    return unpack(self.header, self._read(np.asarray(index), seed))

  def _read(self, index: np.ndarray, seed: int) -> np.ndarray:
    ops.check_integer("seed", seed, 0)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
      raise ValueError(
        f"{self._path}: index is {index.dtype} of shape {index.shape}; "
        "expected integers [b]."
      )
    if not index.size:
      return np.zeros(0, self.header.record())
    limit = self.header.num_examples
    if not 0 <= index.min() <= index.max() < limit:
      raise ValueError(
        f"{self._path}: index spans {index.min()} to {index.max()}; expected "
        f"numbers in 0..{limit - 1}."
      )
    seed = int(seed)
    try:
      raw = self._open(seed).__getitems__(index.tolist())
    except RuntimeError as error:  # of array_record, with or without a message
      self._open.cache_clear()  # a shard that is written anew is read anew
      raise self._damaged(index, seed, error) from error
    kind = self.header.record()
    for record, i in zip(raw, index.tolist(), strict=True):
      if len(record) != kind.itemsize:
        raise ValueError(
          f"{self._shard_of(i, seed)}: the record of example {i}, seed {seed}, "
          f"has {len(record)} bytes; expected {kind.itemsize}."
        )
    records = np.frombuffer(b"".join(raw), kind)
    for name, wanted in (
      ("cache", self.header.digest()),
      ("index", index),
      ("seed", seed),
    ):
      self._check(name, records[name], wanted, index, seed)
    return records

  def _check(
    self, name: str, found: np.ndarray, wanted: Any, index: Any, seed: int
  ) -> None:
    wanted = np.broadcast_to(np.asarray(wanted, np.uint64), found.shape)
    wrong = np.flatnonzero(found != wanted)
    if wrong.size:
      i = wrong[0]
      show = int if name in ("index", "seed") else hex
      got, expected = show(int(found[i])), show(int(wanted[i]))
      raise ValueError(
        f"{self._shard_of(index[i], seed)}: the record of example {index[i]}, "
        f"seed {seed}, has {name} {got}; expected {expected} ({wrong.size} of "
        f"{found.size} differ)."
      )

  def _shard_of(self, index: Any, seed: int) -> pathlib.Path:
    shard = int(index) // self.header.shard_size
    return shard_path(self._path, self.header, seed, shard)

  def _damaged(
    self, index: np.ndarray, seed: int, error: Exception
  ) -> ValueError:
    """Returns an error that names the damaged shards among those to read."""
    names = []
    for shard in np.unique(index // self.header.shard_size).tolist():
      rows = index[index // self.header.shard_size == shard]
      file = self._file(seed, shard)
      try:
        _open([file]).__getitems__((rows % self.header.shard_size).tolist())
      except RuntimeError:
        names.append(pathlib.Path(file.filename).name)
    return ValueError(
      f"{self._path}: {', '.join(names) or 'a shard'} is damaged ({error}); "
      f"delete it and call write_teacher_cache(..., seed={seed})."
    )

  def _file(self, seed: int, shard: int) -> Shard:
    size = len(shard_rows(self.header, shard))
    path = shard_path(self._path, self.header, seed, shard)
    return Shard(str(path), 0, size, size)

  def _open_seed(self, seed: int) -> Any:
    count = num_shards(self.header)
    # Count files, not the shards that the header claims, which may be many.
    pattern = f"seed{seed}-*-of-{count:05}.array_record"
    found = sum(1 for _ in self._path.glob(pattern))
    if found < count:
      raise FileNotFoundError(
        f"{self._path} has {found} of {count} shards of augmentation "
        f"seed {seed}; expected all. Call write_teacher_cache(..., "
        f"seed={seed}), which writes the missing shards."
      )
    return _open([self._file(seed, shard) for shard in range(count)])


def _open(shards: list[Shard]) -> Any:
  module = require("array_record.python.array_record_data_source")
  return module.ArrayRecordDataSource(shards)
