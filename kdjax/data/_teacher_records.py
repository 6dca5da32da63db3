"""One record of a teacher cache: its bytes, and what it was computed for."""

import dataclasses
import hashlib
import json
import math
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
    answer: a few logits for the first image, augmented with seed 0: another
      function of the same variables, or another first image, shows in them.
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
  answer: tuple[float, ...]
  augmentation: tuple[float, ...]

  def differences(self, expected: dict[str, Any]) -> list[str]:
    """What differs from the expected values, in words."""
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


# Numbers of other devices and versions may differ in their last digits.
_TOLERANCES = {"answer": 2e-2, "augmentation": 1e-3}


def _agrees(name: str, value: Any, wanted: Any) -> bool:
  if name not in _TOLERANCES:
    return value == wanted
  size = max((abs(x) for x in wanted if math.isfinite(x)), default=0.0)
  return len(value) == len(wanted) and np.allclose(
    value, wanted, rtol=0, atol=_TOLERANCES[name] * size
  )


def describe(image: np.ndarray) -> str:
  """Shape and dtype of an image, in words."""
  return f"{image.shape} {image.dtype}"


def _digest(data: bytes) -> int:
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def digests(images: np.ndarray) -> np.ndarray:
  """The fingerprint of each image, uint64."""
  return np.array([_digest(image.tobytes()) for image in images], np.uint64)


def probe(
  augment: Augment | None, shape: tuple[int, ...], dtype: Any
) -> tuple[float, ...]:
  """A few pixels that tell one augmentation from another."""
  if augment is None:
    return ()
  ramp = np.arange(math.prod(shape)).reshape(shape) * 7 % 251
  # Many: a slightly likelier flip shows in few of them.
  images = jnp.asarray(np.broadcast_to(ramp, (64, *shape)).astype(dtype))
  views = jax.jit(augment_examples, static_argnums=0)(
    augment, images, jnp.arange(64), 0
  )
  pixels = np.asarray(views, np.float32).reshape(64, -1)
  # Scattered: those of one column would not show what another one gets.
  places = np.random.RandomState(0).randint(0, pixels.shape[1], 4)
  return tuple(pixels[:, places].ravel().tolist())


def pack(header: TeacherCacheHeader, logits: np.ndarray) -> np.ndarray:
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


def unpack(
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
