"""PyTorch's files: what is read, and what is refused."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest

from kdjax import nets
from kdjax.nets.published._torch_file import read_torch_file


class Storage:
  """Pickled as PyTorch pickles the array of a tensor."""

  def __init__(self, kind, key, count):
    self.pid = ("storage", Global("torch", kind), key, "cpu", count)


class Global:
  """Pickled as a name of a module that is not installed."""

  def __init__(self, module, name):
    self.module, self.name = module, name

  def __reduce__(self):
    return f"{self.module} {self.name}"


class Tensor:
  """Pickled as a call that makes a tensor of an array."""

  def __init__(self, storage, offset, shape, strides):
    self.arguments = (storage, offset, shape, strides, False, ())

  def __reduce__(self):
    return Global("torch._utils", "_rebuild_tensor_v2"), self.arguments


class Pickler(pickle._Pickler):
  """Writes names without looking whether they exist."""

  dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

  def save(self, value, save_persistent_id=True):
    if isinstance(value, Global):
      self.write(f"c{value.module}\n{value.name}\n".encode())
    elif isinstance(value, Tensor):
      function, arguments = value.__reduce__()
      self.save(function)
      self.save(arguments)
      self.write(pickle.REDUCE)
    else:
      super().save(value, save_persistent_id)

  def persistent_id(self, value):
    return value.pid if isinstance(value, Storage) else None


def write(path, content, arrays, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    with archive.open("archive/data.pkl", "w") as file:
      Pickler(file, 2).dump(content)
    for key, array in arrays.items():
      archive.writestr(f"archive/data/{key}", array.tobytes())
  return path


FLOATS = np.arange(12, dtype="<f4")


def floats(count=12):
  return Storage("FloatStorage", "0", count)


def test_tensors_are_read(tmp_path):
  content = collections.OrderedDict(
    a=Tensor(floats(), 2, (2, 3), (1, 3)),
    b=Tensor(Storage("LongStorage", "1", 1), 0, (), ()),
  )
  arrays = {"0": FLOATS, "1": np.array([7], "<i8")}
  found = read_torch_file(write(tmp_path / "x.pth", content, arrays))
  np.testing.assert_array_equal(found["a"], [[2, 5, 8], [3, 6, 9]])
  assert found["b"] == 7
  assert found["b"].dtype == np.int64


def integer(key):
  return Tensor(Storage("LongStorage", key, 1), 0, (1,), (1,))


def test_tensors_of_a_storage_share_its_memory(tmp_path):
  content = {"a": Tensor(floats(), 0, (12,), (1,))}
  content["b"] = Tensor(floats(), 3, (2,), (1,))
  found = read_torch_file(write(tmp_path / "x.pth", content, {"0": FLOATS}))
  assert np.shares_memory(found["a"], found["b"])
  np.testing.assert_array_equal(found["b"], [3, 4])


class Bomb:
  """Runs a command where it is unpickled."""

  def __reduce__(self):
    return os.system, ("touch was_here",)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ({"a": Bomb()}, r"it names \w+\.system"),
    ({"a": Global("builtins", "eval")}, r"it names builtins\.eval"),
    ({"a": Global("torch", "load")}, r"it names torch\.load"),
    ({"epoch": 3}, "'epoch' is a int"),
    ([1], "it has a list"),
    ({"a": Tensor(floats(), 0, (13,), (1,))}, r"shape \(13,\) is not in its"),
    ({"a": Tensor(floats(), -1, (2,), (1,))}, r"shape \(2,\) is not in its"),
    ({"a": Tensor(floats(), 3, (2,), (-1,))}, r"shape \(2,\) is not in its"),
    ({"a": Tensor(floats(), 0, (10**12,), (0,))}, "is not in its array"),
    (  # its strides would reach beyond the array
      {"a": Tensor(Tensor(floats(), 11, (12,), (0,)), 0, (12,), (1,))},
      "a tensor is a part of a ndarray",
    ),
    (  # in 64 bits 4 times 2 ** 62 is 0
      {"a": Tensor(floats(), 0, integer("1"), integer("2"))},
      "shape, offset or stride that is no int",
    ),
    ({"a": floats()}, "'a' is a _Storage"),
    ({"a": Tensor(floats(13), 0, (2,), (1,))}, "has 12 of 13 elements"),
    ({"a": Tensor(Storage("FloatStorage", "9", 1), 0, (), ())}, "data/9"),
  ],
)
def test_anything_but_tensors_is_refused(content, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  arrays = {"0": FLOATS, "1": np.array([5]), "2": np.array([2**62])}
  path = write(tmp_path / "x.pth", content, arrays)
  with pytest.raises(ValueError, match=f"x.pth is no state dict.*{words}"):
    read_torch_file(path)
  assert not (tmp_path / "was_here").exists()


def test_the_memo_of_a_pickle_takes_no_more_than_the_file(tmp_path):
  """An entry far behind the others would make room for all before it."""
  path = tmp_path / "x.pth"
  with zipfile.ZipFile(path, "w") as archive:
    far = pickle.LONG_BINPUT + (10**6).to_bytes(4, "little")
    pickled = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + far + pickle.STOP
    archive.writestr("archive/data.pkl", pickled)
  with pytest.raises(ValueError, match="entry 1000000 of its memo, in 9 bytes"):
    read_torch_file(path)


def test_damaged_files_are_refused(tmp_path):
  path = write(
    tmp_path / "x.pth", {}, {"0": FLOATS}, compression=zipfile.ZIP_DEFLATED
  )
  with pytest.raises(ValueError, match="is compressed; expected a zip archive"):
    read_torch_file(path)
  path.write_bytes(b"\x80\x02}q\x00.")  # a pickle alone
  with pytest.raises(ValueError, match="File is not a zip file"):
    read_torch_file(path)
  with pytest.raises(FileNotFoundError):
    nets.load_torch(model(), tmp_path / "nothing.pt")


def model():
  from flax import nnx

  return nnx.eval_shape(lambda: nets.CREPE(1, rngs=nnx.Rngs(0)))


@pytest.mark.packages
def test_a_file_of_pytorch_is_read(tmp_path):
  torch = pytest.importorskip("torch")
  state = {
    "a": torch.arange(6.0).reshape(2, 3).T,
    "b": torch.nn.Parameter(torch.ones(2)),
    "c": torch.ones(3).bfloat16(),
    "d": torch.tensor(5),
  }
  torch.save(state, tmp_path / "x.pt")
  found = read_torch_file(tmp_path / "x.pt")
  assert found.keys() == state.keys()
  for key, value in state.items():
    expected = value.detach().float().numpy()
    np.testing.assert_array_equal(found[key].astype(np.float32), expected)
