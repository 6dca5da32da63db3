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

from kdjax.data._augmentation import augment_examples

DTYPES = ("float32", "bfloat16", "float16")
Augment = Callable[[Any, Any], Any]


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
  images = jnp.asarray(np.broadcast_to(ramp, (64, *shape)).astype(dtype))
  views = jax.jit(augment_examples, static_argnums=0)(
    augment, images, jnp.arange(64), 0
  )
  pixels = np.asarray(views, np.float32).reshape(64, -1)
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


def shard_paths(
  path: pathlib.Path, header: TeacherCacheHeader, seed: int
) -> list[pathlib.Path]:
  """Returns the paths of the files of one augmentation seed."""
  count = math.ceil(header.num_examples / header.shard_size)
  return [
    path / f"seed{seed}-{i:05}-of-{count:05}.array_record" for i in range(count)
  ]


def read_header(path: pathlib.Path) -> TeacherCacheHeader:
  """Returns the header of a cache's folder."""
  fields = json.loads((path / "header.json").read_text())
  names = {field.name for field in dataclasses.fields(TeacherCacheHeader)}
  if fields.keys() != names:
    raise ValueError(
      f"{path} was written by another version of kdjax: its header has "
      f"{sorted(fields)}; expected {sorted(names)}. Write it anew."
    )
  return TeacherCacheHeader(
    **fields | {k: tuple(fields[k]) for k in ("answer", "augmentation")}
  )


def check_header(
  path: pathlib.Path, expected: dict[str, Any]
) -> TeacherCacheHeader:
  """Returns the header of a cache's folder, or raises if values differ."""
  header = read_header(path)
  if differences := header.differences(expected):
    raise ValueError(f"{path} is another cache: {'; '.join(differences)}.")
  return header
