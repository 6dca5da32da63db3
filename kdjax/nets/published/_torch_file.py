"""PyTorch's files of tensors, read without PyTorch and without running code."""

import collections
import io
import math
import os
import pickle
import pickletools
import zipfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SUFFIXES = (".bin", ".pt", ".pth")
_DTYPES: dict[str, Any] = {
  "BFloat16Storage": jnp.bfloat16,
  "BoolStorage": np.bool_,
  "ByteStorage": np.uint8,
  "CharStorage": np.int8,
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "IntStorage": np.int32,
  "LongStorage": np.int64,
  "ShortStorage": np.int16,
}


class _Kind(NamedTuple):
  """The type of a storage; pickle gets nothing that it could call."""

  dtype: Any


class _Storage(NamedTuple):
  """The array that tensors are parts of; a tensor cannot stand in for it."""

  array: np.ndarray


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads the arrays of a state dict that `torch.save` wrote.

  Such a file is a zip archive of raw arrays and of a pickle that names them.
  The pickle is allowed a dictionary and tensors on these arrays, no other
  name, so that nothing in the file is run.

  Args:
    path: the file.

  Returns:
    Arrays by key.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is damaged or has anything but tensors.
  """
  with open(path, "rb") as file:
    try:
      with zipfile.ZipFile(file) as archive:
        return _read(archive)
    # A hostile file makes pickle and zipfile raise anything.
    except Exception as error:
      raise ValueError(
        f"{os.fspath(path)} is no state dict of PyTorch: {error}; expected a "
        "zip archive with tensors alone, as torch.save(model.state_dict(), "
        "path) writes it."
      ) from None


def _read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
  for entry in archive.infolist():
    # PyTorch compresses nothing, so no entry is larger than the file.
    if entry.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"{entry.filename} is compressed")
  (pickled,) = [x for x in archive.namelist() if x.endswith("/data.pkl")]
  found = _Reader(archive, pickled.removesuffix("data.pkl"), pickled).load()
  if not isinstance(found, dict):
    raise ValueError(f"it has a {type(found).__name__}")
  for key, value in found.items():
    if not isinstance(key, str) or not isinstance(value, np.ndarray):
      raise ValueError(f"{key!r} is a {type(value).__name__}")
  return dict(found)


class _Reader(pickle.Unpickler):
  """Reads tensors and dictionaries, and refuses every other name."""

  def __init__(self, archive: zipfile.ZipFile, folder: str, pickled: str):
    content = archive.read(pickled)
    # Python makes room for all entries of the memo below the largest.
    for opcode, entry, _ in pickletools.genops(content):
      if opcode.name.endswith("PUT") and (entry or 0) > len(content):
        raise ValueError(
          f"it has entry {entry} of its memo, in {len(content)} bytes"
        )
    super().__init__(io.BytesIO(content))
    self._archive, self._folder = archive, folder
    # A storage that many tensors share is in memory once.
    self._read: dict[str, bytes] = {}

  def find_class(self, module: str, name: str) -> Any:
    """The few names that a file of tensors has."""
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _rebuild
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return _parameter
    if module == "torch" and name in _DTYPES:
      return _Kind(_DTYPES[name])
    raise ValueError(f"it names {module}.{name}")

  def persistent_load(self, pid: Any) -> _Storage:
    """The array that a tensor is a part of."""
    _, kind, key, _, count = pid
    name = f"{self._folder}data/{key}"
    if name not in self._read:
      self._read[name] = self._archive.read(name)
    array = np.frombuffer(self._read[name], kind.dtype)
    if len(array) != count:
      raise ValueError(f"a tensor has {len(array)} of {count} elements")
    return _Storage(array)


def _rebuild(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> np.ndarray:
  """A tensor of an array."""
  # The strides of another tensor would reach beyond its array, and integers of
  # NumPy would overflow in the comparisons below.
  if not isinstance(storage, _Storage):
    raise ValueError(f"a tensor is a part of a {type(storage).__name__}")
  if any(type(x) is not int for x in (offset, *shape, *strides)):
    raise ValueError("a tensor has a shape, offset or stride that is no int")
  array = storage.array
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  inside = offset >= 0 and last < len(array) and min((*strides, 0)) == 0
  if not inside or not 0 < math.prod(shape) <= len(array):
    raise ValueError(f"a tensor of shape {tuple(shape)} is not in its array")
  steps = [s * array.itemsize for s in strides]
  return np.lib.stride_tricks.as_strided(
    array[offset:], shape, steps, writeable=False
  )


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
  return tensor
