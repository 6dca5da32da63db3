"""A teacher's outputs as data, for exactly the views that a student sees."""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data._augmentation import augment_examples
from kdjax.data._extras import require
from kdjax.data._sources import Source
from kdjax.data._teacher_records import DTYPES
from kdjax.data._teacher_records import Augment
from kdjax.data._teacher_records import TeacherCacheHeader
from kdjax.data._teacher_records import describe
from kdjax.data._teacher_records import digests
from kdjax.data._teacher_records import fingerprint
from kdjax.data._teacher_records import pack
from kdjax.data._teacher_records import probe
from kdjax.data._teacher_records import unpack
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_integer


def write_teacher_cache(
  path: str | os.PathLike[str],
  source: Source,
  teacher: Callable[[Any, Any], Any],
  variables: Any,
  *,
  dataset: str,
  seed: int = 0,
  augment: Augment | None = None,
  k: int | None = None,
  dtype: str = "float32",
  batch_size: int = 256,
  shard_size: int = 4096,
  progress: Callable[[int, int], None] | None = None,
) -> "TeacherCache":
  """Writes what a teacher says of every example, for one augmentation seed.

  A folder holds any number of seeds of one teacher, data set and augmentation:
  call this for each. A shard appears whole or not at all, and what is there is
  not computed again: a killed write loses its current shard.

  Args:
    path: the folder, made if missing.
    source: the examples. Each is known by its index and by a fingerprint of
      its image, before augmentation.
    teacher: `(variables, images) -> logits`, compiled here.
    variables: of the teacher.
    dataset: the name of the data set and split.
    seed: of the augmentation; a student's epoch has one.
    augment: `(key, images) -> images`, applied by :func:`augment_examples`.
    k: how many of the likeliest classes are kept, with the log-sum-exp of all
      others; None keeps all.
    dtype: of the logits kept: `"float32"` is exact.
    batch_size: examples in one call of the teacher.
    shard_size: records in a file.
    progress: called with the numbers of records written and to be written:
      first where the write starts or resumes, then after each shard.

  Returns:
    The cache, open.

  Raises:
    ValueError: if the folder has a cache of another teacher, of another
      function of the same variables, data set or augmentation; if logits are
      NaN or do not fit into the dtype.
    ImportError: if array_record is not installed.

  Examples:
    >>> import tempfile
    >>> from kdjax.data import load
    >>> source = load("digits", "test")
    >>> def teacher(variables, images):
    ...   return images.mean((1, 2)) @ variables
    >>> with tempfile.TemporaryDirectory() as path:
    ...   cache = write_teacher_cache(
    ...     path, source, teacher, jnp.ones((1, 10)), dataset="digits/test"
    ...   )
    ...   cache.lookup(np.array([7]), seed=0)["logits"].shape
    (1, 10)

  References:
    Shen and Xing, `A fast knowledge distillation framework for visual
    recognition <https://arxiv.org/abs/2112.01528>`_, 2021; resumption as in
    `tfds <https://www.tensorflow.org/datasets/api_docs/python/tfds>`_.
  """
  writer = require("array_record.python.array_record_module").ArrayRecordWriter
  check_choice("dtype", dtype, DTYPES)
  for name, number in (("batch_size", batch_size), ("shard_size", shard_size)):
    check_integer(name, number, 1)
  check_integer("seed", seed, 0)

  @jax.jit
  def answer(variables: Any, images: Any, index: Any, seed: Any) -> Any:
    if augment is not None:
      images = augment_examples(augment, images, index, seed)
    return teacher(variables, images).astype(jnp.float32)

  image = np.asarray(source[0]["image"])
  # What the variables do not tell: what the teacher makes of one image. In a
  # whole batch, so that the teacher is compiled once.
  images = np.broadcast_to(image, (batch_size, *image.shape))
  first = answer(variables, images, np.zeros(batch_size, np.int32), 0)[0]
  num_classes = first.shape[-1]
  if k is not None and not 1 <= k < num_classes:
    raise ValueError(
      f"k is {k}; expected 1 to {num_classes - 1}, or None for all classes."
    )
  header = TeacherCacheHeader(
    dataset=dataset,
    teacher=fingerprint(variables),
    num_examples=len(source),
    num_classes=num_classes,
    k=k,
    dtype=dtype,
    shard_size=shard_size,
    image=describe(image),
    answer=tuple(first[:64].tolist()),
    augmentation=probe(augment, image.shape, image.dtype),
  )
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  if (path / "header.json").exists():
    header = _check_header(path, dataclasses.asdict(header))
  else:
    _replace(path / "header.json", json.dumps(dataclasses.asdict(header)))
  shards = _shards(path, header, seed)
  missing = [i for i, shard in enumerate(shards) if not shard.exists()]
  total = len(source)
  done = total - sum(min(shard_size, total - i * shard_size) for i in missing)
  if progress is not None:
    progress(done, total)
  for i in missing:
    rows = range(i * shard_size, min((i + 1) * shard_size, total))
    partial = shards[i].with_suffix(".partial")
    file = writer(str(partial), "group_size:1")
    for start in rows[::batch_size]:
      batch = np.arange(start, min(start + batch_size, rows.stop))
      images = np.stack([source[int(j)]["image"] for j in batch])
      padded = np.resize(batch, batch_size).astype(np.int32)
      logits = answer(variables, images[padded - start], padded, seed)
      records = pack(header, np.asarray(logits)[: len(batch)])
      records["cache"], records["seed"] = header.digest(), seed
      records["index"], records["image"] = batch, digests(images)
      for record in records:
        file.write(record.tobytes())
    file.close()
    os.replace(partial, shards[i])
    done += len(rows)
    if progress is not None:
      progress(done, total)
  return TeacherCache(path, augment=augment)


class TeacherCache:
  """Cache of a teacher's logits, which refuses to serve the wrong example.

  Every record carries its example's index, the augmentation seed, a
  fingerprint of the image and one of the cache's header, and all are compared
  with what is asked for.

  Attributes:
    header: the :class:`TeacherCacheHeader`.

  Args:
    path: the folder that :func:`write_teacher_cache` wrote.
    augment: the augmentation that the student's images get, by
      :func:`augment_examples`; None if none.
    dataset: the expected name of the data set.
    teacher: the expected :func:`fingerprint`.
    num_classes: the expected number of classes.

  Raises:
    FileNotFoundError: if there is no cache.
    ValueError: if it is of another augmentation, data set or teacher.
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
    header = _read_header(self._path)
    shape, dtype = header.image.rsplit(" ", 1)
    shape = tuple(json.loads(f"[{shape.strip('(),')}]"))
    wanted = {
      "dataset": dataset,
      "teacher": teacher,
      "num_classes": num_classes,
      "augmentation": probe(augment, shape, dtype),
    }
    self.header = _check_header(
      self._path, {k: v for k, v in wanted.items() if v is not None}
    )
    self._open = functools.cache(self._open_seed)

  def attach(self, batch: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Adds what the teacher says of a batch, if it is of these very images.

    Args:
      batch: with `"index"` and `"image"`, the images before augmentation.
      seed: of the augmentation.

    Returns:
      The batch with `"teacher"`, as :meth:`lookup` returns it; for a
      `kdjax.training.CachedTeacher`.

    Raises:
      ValueError: as :meth:`lookup`, and if an image is not that of its index.
    """
    index, images = np.asarray(batch["index"]), np.asarray(batch["image"])
    if len(index) != len(images):
      raise ValueError(
        f"{self._path}: batch has {len(images)} images; expected one for each "
        f"of {len(index)} indices."
      )
    if len(images) and describe(images[0]) != self.header.image:
      raise ValueError(
        f"{self._path}: batch has images {describe(images[0])}; expected "
        f"{self.header.image}, not yet augmented."
      )
    records = self._read(index, seed)
    self._check("image", records["image"], digests(images), index, seed)
    return batch | {"teacher": unpack(self.header, records)}

  def lookup(self, index: Any, seed: int) -> dict[str, np.ndarray]:
    """What the teacher says of some examples; :meth:`attach` checks images too.

    Args:
      index: int `[b]`, places in the data set.
      seed: of the augmentation.

    Returns:
      `{"logits": [b, classes]}` in the dtype of the cache, or `{"ids": int32
      [b, k], "values": [b, k], "rest": float32 [b]}`: the k likeliest classes,
      their logits and the log-sum-exp of all other logits.

    Raises:
      ValueError: if an index is out of range or no integer, a shard is damaged,
        or a record is not what its place says.
      FileNotFoundError: if not all examples of the seed are written.
    """
    return unpack(self.header, self._read(np.asarray(index), seed))

  def _read(self, index: np.ndarray, seed: int) -> np.ndarray:
    check_integer("seed", seed, 0)
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
    try:
      raw = self._open(int(seed)).__getitems__(index.tolist())
    except RuntimeError as error:  # array_record's, at times without a word
      raise ValueError(
        f"{self._path}: a shard of augmentation seed {seed} is damaged; delete "
        f"it and call write_teacher_cache(..., seed={seed})."
      ) from error
    kind = self.header.record()
    for record, i in zip(raw, index.tolist(), strict=True):
      if len(record) != kind.itemsize:
        raise ValueError(
          f"{self._path}: the record of example {i}, seed {seed}, has "
          f"{len(record)} bytes; expected {kind.itemsize}."
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
    self, name: str, came: np.ndarray, wanted: Any, index: Any, seed: int
  ) -> None:
    wanted = np.broadcast_to(np.asarray(wanted, np.uint64), came.shape)
    wrong = np.flatnonzero(came != wanted)
    if wrong.size:
      i = wrong[0]
      show = hex if name in ("cache", "image") else int
      raise ValueError(
        f"{self._path}: the record of example {index[i]}, seed {seed}, has "
        f"{name} {show(int(came[i]))}; expected {show(int(wanted[i]))} "
        f"({wrong.size} of {came.size} differ)."
      )

  def _open_seed(self, seed: int) -> Any:
    shards = _shards(self._path, self.header, seed)
    found = sum(shard.exists() for shard in shards)
    if found < len(shards):
      raise FileNotFoundError(
        f"{self._path} has {found} of {len(shards)} shards of augmentation "
        f"seed {seed}; expected all. Call write_teacher_cache(..., "
        f"seed={seed}): it goes on where it stopped."
      )
    module = require("array_record.python.array_record_data_source")
    return module.ArrayRecordDataSource([str(shard) for shard in shards])


def _shards(
  path: pathlib.Path, header: TeacherCacheHeader, seed: int
) -> list[pathlib.Path]:
  count = math.ceil(header.num_examples / header.shard_size)
  return [
    path / f"seed{seed}-{i:05}-of-{count:05}.array_record" for i in range(count)
  ]


def _read_header(path: pathlib.Path) -> TeacherCacheHeader:
  fields = json.loads((path / "header.json").read_text())
  return TeacherCacheHeader(
    **fields | {k: tuple(fields[k]) for k in ("answer", "augmentation")}
  )


def _check_header(
  path: pathlib.Path, expected: dict[str, Any]
) -> TeacherCacheHeader:
  header = _read_header(path)
  if differences := header.differences(expected):
    raise ValueError(f"{path} is another cache: {'; '.join(differences)}.")
  return header


def _replace(path: pathlib.Path, text: str) -> None:
  partial = path.with_suffix(".partial")
  partial.write_text(text)
  os.replace(partial, path)
