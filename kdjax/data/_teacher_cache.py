"""A teacher's outputs as data, for exactly the views that a student sees."""

import dataclasses
import functools
import hashlib
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
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_integer

DTYPES = ("float32", "bfloat16", "float16")
Augment = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class TeacherCacheHeader:
  """Header of a cache: all that must agree before one record is served.

  Attributes:
    dataset: the name of the data set and split.
    teacher: the :func:`fingerprint` of the teacher's variables.
    num_examples: of the data set.
    num_classes: of the teacher.
    k: how many of the likeliest classes are kept; None keeps all.
    dtype: in which the logits are kept.
    shard_size: records in a file.
    image: shape and dtype of an image, such as `"(32, 32, 3) uint8"`.
    augmentation: a few pixels of fixed images, augmented with fixed seeds:
      another augmentation shows in them. Empty without one.

  References:
    The `DatasetInfo of TensorFlow Datasets
    <https://www.tensorflow.org/datasets/api_docs/python/tfds/core/DatasetInfo>`_.
  """

  dataset: str
  teacher: str
  num_examples: int
  num_classes: int
  k: int | None
  dtype: str
  shard_size: int
  image: str
  augmentation: tuple[float, ...]

  def differences(self, expected: dict[str, Any]) -> list[str]:
    """What differs from the expected values, in words."""
    wrong = {
      k: v for k, v in expected.items() if not _agrees(getattr(self, k), v)
    }
    return [
      "augmentation is not the one given"
      if name == "augmentation"
      else f"{name} is {getattr(self, name)!r}, expected {wanted!r}"
      for name, wanted in wrong.items()
    ]

  def record(self) -> np.dtype:
    """The bytes of one record; they hold what it was computed for."""
    kept = self.num_classes if self.k is None else self.k
    # NumPy knows no bfloat16, so halves are kept by their bits.
    logits = ("logits", "<f4" if self.dtype == "float32" else "<u2", kept)
    top = [] if self.k is None else [("ids", "<i4", kept), ("rest", "<f4")]
    names = ("cache", "index", "seed", "image")
    return np.dtype([*((name, "<u8") for name in names), logits, *top])

  def digest(self) -> int:
    """A number that every record of this cache carries."""
    return _digest(json.dumps(dataclasses.asdict(self)).encode())


def fingerprint(variables: Any) -> str:
  """Fingerprint of a network: a hash of all its arrays and their names.

  Args:
    variables: a pytree of arrays, such as a teacher's variables.

  Returns:
    16 hexadecimal digits; the same on any machine.

  Examples:
    >>> fingerprint({"kernel": jnp.zeros(2)})
    '79dab4eec8fef457'

  References:
    `hashlib.blake2b
    <https://docs.python.org/3/library/hashlib.html#blake2>`_.
  """
  state = hashlib.blake2b(digest_size=8)
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.asarray(leaf)
    name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
    state.update(name.encode() + array.tobytes())
  return state.hexdigest()


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
    ValueError: if the folder has a cache of another teacher, data set or
      augmentation; if logits are NaN or do not fit into the dtype.
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
  def answer(variables: Any, images: Any, index: Any) -> Any:
    if augment is not None:
      images = augment_examples(augment, images, index, seed)
    return teacher(variables, images).astype(jnp.float32)

  image = np.asarray(source[0]["image"])
  spec = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
  index = jax.ShapeDtypeStruct((1,), jnp.int32)
  num_classes = jax.eval_shape(answer, variables, spec, index).shape[-1]
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
    image=_describe(image),
    augmentation=_probe(augment, image.shape, image.dtype),
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
      # One shape for all batches, so that the teacher is compiled once.
      padded = np.resize(batch, batch_size).astype(np.int32)
      logits = answer(variables, images[padded - start], padded)
      records = _pack(header, np.asarray(logits)[: len(batch)])
      records["cache"], records["seed"] = header.digest(), seed
      records["index"], records["image"] = batch, _digests(images)
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
      "augmentation": _probe(augment, shape, dtype),
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
    if len(images) and _describe(images[0]) != self.header.image:
      raise ValueError(
        f"{self._path}: batch has images {_describe(images[0])}; expected "
        f"{self.header.image}, not yet augmented."
      )
    records = self._read(index, seed)
    self._check("image", records["image"], _digests(images), index, seed)
    return batch | {"teacher": _unpack(self.header, records)}

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
      ValueError: if an index is out of range, or a record is not what its place
        says.
      FileNotFoundError: if not all examples of the seed are written.
    """
    return _unpack(self.header, self._read(np.asarray(index), seed))

  def _read(self, index: np.ndarray, seed: int) -> np.ndarray:
    limit = self.header.num_examples
    if index.size and not 0 <= index.min() <= index.max() < limit:
      raise ValueError(
        f"{self._path}: index spans {index.min()} to {index.max()}; expected "
        f"numbers in 0..{limit - 1}."
      )
    raw = self._open(int(seed)).__getitems__(index.tolist())
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
    **fields | {"augmentation": tuple(fields["augmentation"])}
  )


def _check_header(
  path: pathlib.Path, expected: dict[str, Any]
) -> TeacherCacheHeader:
  header = _read_header(path)
  if differences := header.differences(expected):
    raise ValueError(f"{path} is another cache: {'; '.join(differences)}.")
  return header


def _agrees(value: Any, wanted: Any) -> bool:
  if not isinstance(value, tuple):
    return value == wanted
  # Pixels of other devices and versions may differ in their last digits.
  size = max(map(abs, wanted), default=0.0)
  return len(value) == len(wanted) and np.allclose(
    value, wanted, rtol=0, atol=1e-3 * size
  )


def _replace(path: pathlib.Path, text: str) -> None:
  partial = path.with_suffix(".partial")
  partial.write_text(text)
  os.replace(partial, path)


def _describe(image: np.ndarray) -> str:
  return f"{image.shape} {image.dtype}"


def _digest(data: bytes) -> int:
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _digests(images: np.ndarray) -> np.ndarray:
  return np.array([_digest(image.tobytes()) for image in images], np.uint64)


def _probe(
  augment: Augment | None, shape: tuple[int, ...], dtype: Any
) -> tuple[float, ...]:
  """A few pixels that tell one augmentation from another."""
  if augment is None:
    return ()
  ramp = np.arange(math.prod(shape)).reshape(shape) * 7 % 251
  images = jnp.asarray(np.broadcast_to(ramp, (8, *shape)).astype(dtype))
  views = jax.jit(augment_examples, static_argnums=0)(
    augment, images, jnp.arange(8), 0
  )
  pixels = np.asarray(views, np.float32).reshape(8, -1)
  # Scattered: those of one column would not show what another one gets.
  places = np.random.RandomState(0).randint(0, pixels.shape[1], 16)
  return tuple(pixels[:, places].ravel().tolist())


def _pack(header: TeacherCacheHeader, logits: np.ndarray) -> np.ndarray:
  """Records of a batch of float32 logits."""
  records = np.zeros(len(logits), header.record())
  if header.k is not None:
    order = np.argsort(-logits, axis=-1, kind="stable")
    ids, others = np.split(order, [header.k], axis=-1)
    records["ids"] = ids
    rest = np.take_along_axis(logits, others, -1).astype(np.float64)
    with np.errstate(divide="ignore"):
      records["rest"] = np.logaddexp.reduce(rest, axis=-1)
    logits = np.take_along_axis(logits, ids, -1)
  with np.errstate(over="ignore"):
    kept = logits.astype(jnp.dtype(header.dtype))
  if np.isnan(kept).any() or np.isposinf(kept).any():
    raise ValueError(
      f"the teacher's logits reach from {logits.min()} to {logits.max()}; "
      f"expected numbers that {header.dtype} holds."
    )
  records["logits"] = kept.view(records["logits"].dtype)
  return records


def _unpack(
  header: TeacherCacheHeader, records: np.ndarray
) -> dict[str, np.ndarray]:
  logits = np.ascontiguousarray(records["logits"])
  logits = logits.view(jnp.dtype(header.dtype))
  if header.k is None:
    return {"logits": logits}
  return {
    "ids": records["ids"].copy(),
    "values": logits,
    "rest": records["rest"].copy(),
  }
