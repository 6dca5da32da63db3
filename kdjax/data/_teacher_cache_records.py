"""The header and the records of a teacher cache."""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import ops
from kdjax.data._augmentation import augment_examples
from kdjax.data._optional_packages import require

DTYPES = ("float32", "bfloat16", "float16")
Augment = Callable[[Any, Any], Any]

# A header may be damaged or made by others: nothing is allocated by its word
# above these limits.
_MOST_HEADER_BYTES = 2**24
_MOST_EXAMPLE_BYTES = 2**28
_MOST_PROBE_BYTES = 2**28


class DamagedHeaderError(ValueError):
  """A header that cannot be read, or that differs from its checksum."""


@dataclasses.dataclass(frozen=True)
class TeacherCacheHeader:
  """Header of a teacher cache: the settings that a reader must share.

  Attributes:
    dataset: the name of the data set and split.
    teacher: the `fingerprint` of the teacher's variables.
    num_examples: the number of examples of the data set.
    num_classes: the number of classes of the teacher; None if the teacher does
      not return an array.
    top_k: the number of stored classes, the most probable ones; None for all.
    dtype: the dtype of the stored logits.
    shard_size: the number of records in a file.
    image: the shape and dtype of the teacher's input, such as
      `"(32, 32, 3) uint8"`.
    answer: a few logits for the first image, augmented with seed 0, and a few
      numbers that `keep` computes from them. They tell functions of the same
      variables, and data sets, apart.
    augmentation: a few pixels of fixed images, augmented with fixed seeds. They
      tell augmentations apart. Empty without augmentation.
    inputs: the name of the teacher's input in an example.
    kept: the arrays of a record, such as `{"ids": "(512, 50) int32"}`.
  """

  dataset: str
  teacher: str
  num_examples: int
  num_classes: int | None
  top_k: int | None
  dtype: str
  shard_size: int
  image: str
  answer: tuple[float, ...]
  augmentation: tuple[float, ...]
  inputs: str
  kept: dict[str, str]

  def differences(self, expected: dict[str, Any]) -> list[str]:
    """Returns a text for each difference from the expected values."""
    wrong = {
      k: v for k, v in expected.items() if not _agrees(k, getattr(self, k), v)
    }
    words = {
      "answer": "teacher does not answer as the one given",
      "augmentation": "augmentation is not the one given",
    }
    return [
      words[name]
      if name in words
      else f"{name} is {getattr(self, name)!r}, expected {wanted!r}"
      for name, wanted in wrong.items()
    ]

  def record(self) -> np.dtype:
    """Returns the dtype of one record, with its index, seed and digests."""
    names = ("cache", "index", "seed", "inputs")
    kept = []
    for name, text in self.kept.items():
      shape, dtype = parse(text)
      # NumPy has no bfloat16: store the bits as unsigned integers.
      kind = f"u{dtype.itemsize}" if dtype.kind == "V" else dtype
      kept.append((name, np.dtype(kind).newbyteorder("<"), shape))
    return np.dtype([*((name, "<u8") for name in names), ("kept", kept)])

  def digest(self) -> int:
    """Returns the fingerprint of the header, which every record contains."""
    return _digest(json.dumps(dataclasses.asdict(self)).encode())

  def to_text(self) -> str:
    """Returns the text of `header.json`: the attributes and their checksum."""
    checksum = f"{self.digest():016x}"
    return json.dumps(dataclasses.asdict(self) | {"checksum": checksum})

  def check_sizes(self) -> None:
    """Raises if a number or a shape is out of range."""
    for name in ("num_examples", "shard_size"):
      ops.check_integer(f"header: {name}", getattr(self, name), 1)
    ops.check_choice("header: dtype", self.dtype, DTYPES)
    for name, text in (("image", self.image), *self.kept.items()):
      shape, dtype = parse(text)
      size = math.prod(shape) * dtype.itemsize
      if min(shape, default=0) < 0 or size > _MOST_EXAMPLE_BYTES:
        raise ValueError(
          f"header: {name} is {text!r}; expected at most "
          f"{_MOST_EXAMPLE_BYTES} bytes an example."
        )
    self.record()


def fingerprint(variables: Any) -> str:
  """Fingerprint of a network: a hash of its arrays and their names.

  Args:
    variables: a pytree of arrays, such as a teacher's variables.

  Returns:
    16 hexadecimal digits, equal on all machines.

  Examples:
    >>> fingerprint({"kernel": jnp.zeros(2)})
    '79dab4eec8fef457'
  """
  state = hashlib.blake2b(digest_size=8)
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.asarray(leaf)
    name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
    state.update(name.encode() + array.tobytes())
  return state.hexdigest()


# Results of other devices and versions may differ in their last digits.
_TOLERANCES = {"answer": 2e-2, "augmentation": 1e-3}


def _agrees(name: str, value: Any, wanted: Any) -> bool:
  if name not in _TOLERANCES:
    return value == wanted
  size = max((abs(x) for x in wanted if math.isfinite(x)), default=0.0)
  return len(value) == len(wanted) and np.allclose(
    value, wanted, rtol=0, atol=_TOLERANCES[name] * size, equal_nan=True
  )


def describe(array: Any) -> str:
  """Returns a text of the shape and dtype of an array."""
  return f"{array.shape} {array.dtype}"


def parse(text: str) -> tuple[tuple[int, ...], np.dtype]:
  """Returns the shape and dtype from the text of `describe`."""
  shape, dtype = text.rsplit(" ", 1)
  return tuple(json.loads(f"[{shape.strip('(),')}]")), jnp.dtype(dtype)


def _digest(data: bytes) -> int:
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def digests(images: np.ndarray) -> np.ndarray:
  """Returns the fingerprint of each image, uint64."""
  return np.array([_digest(image.tobytes()) for image in images], np.uint64)


def probe(
  augment: Augment | None, shape: tuple[int, ...], dtype: Any
) -> tuple[float, ...]:
  """Returns a few augmented pixels that tell augmentations apart."""
  if augment is None:
    return ()
  ramp = np.arange(math.prod(shape)).reshape(shape) * 7 % 251
  # A slightly different probability of a flip changes few of many images.
  # Large images are few, so that their memory is bounded.
  count = min(64, max(1, _MOST_PROBE_BYTES // max(1, ramp.nbytes)))
  images = jnp.asarray(np.broadcast_to(ramp, (count, *shape)).astype(dtype))
  views = jax.jit(augment_examples, static_argnums=0)(
    augment, images, jnp.arange(count), 0
  )
  pixels = np.asarray(views, np.float32).reshape(count, -1)
  # Scattered pixels: an augmentation may change only some of the columns.
  positions = np.random.RandomState(0).randint(0, pixels.shape[1], 4)
  return tuple(pixels[:, positions].ravel().tolist())


def pack(
  header: TeacherCacheHeader, kept: dict[str, Any], size: int
) -> np.ndarray:
  """Returns the records of the first examples of a batch."""
  records = np.zeros(size, header.record())
  for name in kept:
    array = np.asarray(kept[name])[:size]
    if jnp.issubdtype(array.dtype, jnp.floating) and (
      np.isnan(array).any() or np.isposinf(array).any()
    ):
      raise ValueError(
        f"the teacher's {name} reach from {array.min()} to {array.max()}; "
        f"expected numbers that {array.dtype} holds. Pass another dtype."
      )
    field = records["kept"][name]
    field[...] = array.view(field.dtype)
  return records


def unpack(
  header: TeacherCacheHeader, records: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns the stored arrays of records by their names."""
  return {
    name: records["kept"][name].copy().view(parse(text)[1])
    for name, text in header.kept.items()
  }


def shard_path(
  path: pathlib.Path, header: TeacherCacheHeader, seed: int, shard: int
) -> pathlib.Path:
  """Returns the path of one file of an augmentation seed."""
  count = num_shards(header)
  return path / f"seed{seed}-{shard:05}-of-{count:05}.array_record"


def num_shards(header: TeacherCacheHeader) -> int:
  """Returns the number of files of an augmentation seed."""
  return -(-header.num_examples // header.shard_size)


def shard_rows(header: TeacherCacheHeader, shard: int) -> range:
  """Returns the indices of the examples of one file."""
  start = shard * header.shard_size
  return range(start, min(start + header.shard_size, header.num_examples))


def read_header(path: pathlib.Path) -> TeacherCacheHeader:
  """Returns the header of a cache's folder."""
  file = path / "header.json"
  try:
    if file.stat().st_size > _MOST_HEADER_BYTES:
      raise ValueError(f"it has more than {_MOST_HEADER_BYTES} bytes")
    fields = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
      raise ValueError(f"it is a {type(fields).__name__}, not an object")
  except (ValueError, RecursionError, IsADirectoryError) as error:
    raise _damaged(path, error) from error
  names = {field.name for field in dataclasses.fields(TeacherCacheHeader)}
  checksum = fields.pop("checksum", None)
  if fields.keys() != names or checksum is None:
    found = sorted([*fields, *(["checksum"] if checksum else [])])
    raise DamagedHeaderError(
      f"{path} was written by another version of kdjax: its header has "
      f"{found}; expected {sorted([*names, 'checksum'])}. Call "
      "write_teacher_cache with the arguments of the cache, which writes it "
      "anew."
    )
  try:
    header = TeacherCacheHeader(
      **fields | {k: tuple(fields[k]) for k in ("answer", "augmentation")}
    )
    if checksum != f"{header.digest():016x}":
      raise ValueError(
        f"its checksum is {checksum!r}, expected '{header.digest():016x}'"
      )
    header.check_sizes()
  except (ValueError, TypeError, AttributeError, OverflowError) as error:
    raise _damaged(path, error) from error
  return header


def _damaged(path: pathlib.Path, error: Exception) -> DamagedHeaderError:
  return DamagedHeaderError(
    f"{path / 'header.json'} is damaged: {str(error).rstrip('.')}. Call "
    "write_teacher_cache with the arguments of the cache, which writes the "
    "header anew and keeps the shards."
  )


def check_header(
  path: pathlib.Path, expected: dict[str, Any]
) -> TeacherCacheHeader:
  """Returns the header of a cache's folder, or raises if values differ."""
  header = read_header(path)
  if differences := header.differences(expected):
    raise ValueError(f"{path} is another cache: {'; '.join(differences)}.")
  return header


def first_digest(shard: pathlib.Path) -> int | None:
  """Returns the fingerprint of the header in a file; None if it is damaged."""
  module = require("array_record.python.array_record_module")
  try:
    reader = module.ArrayRecordReader(str(shard))
    record = reader.read([0])[0]
    reader.close()
  except RuntimeError:
    return None
  return int.from_bytes(record[:8], "little")
