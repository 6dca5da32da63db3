import numpy as np
import pytest

from kdjax import data
from kdjax.data._any_data import (
  ArrayExamples,
  BatchStream,
  SourceExamples,
  open_data,
)

X = np.arange(10, dtype=np.float32).reshape(5, 2)
Y = np.arange(5)


class Tensor:
  """What NumPy can read, as a tensor of PyTorch or TensorFlow."""

  def __init__(self, array):
    self._array = array

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self._array, dtype)


class Pairs:
  """A map-style data set of pairs, as PyTorch has them."""

  def __len__(self):
    return 5

  def __getitem__(self, index):
    return Tensor(X[index]), int(Y[index])


class Loader:
  """An iterable of batches that starts anew, as a DataLoader does."""

  def __iter__(self):
    return iter([(Tensor(X[:3]), Tensor(Y[:3])), (Tensor(X[3:]), Y[3:])])

  def __len__(self):
    return 2


@pytest.mark.parametrize(
  ("value", "kind"),
  [
    ({"image": X, "label": Y}, ArrayExamples),
    ({"image": X.tolist(), "label": Y.tolist()}, ArrayExamples),
    ((X, Y), ArrayExamples),
    (Pairs(), SourceExamples),
    (data.ArraySource(X.reshape(5, 2, 1, 1), Y), SourceExamples),
  ],
)
def test_examples_are_read_by_index(value, kind):
  opened = open_data("data", value)
  assert type(opened) is kind
  assert len(opened) == 5
  batch = opened.read(np.array([3, 1]))
  np.testing.assert_array_equal(batch["image"].reshape(2, 2), X[[3, 1]])
  assert batch["label"].tolist() == [3, 1]
  whole = opened.in_memory()
  assert whole.nbytes == opened.nbytes
  np.testing.assert_array_equal(whole.arrays["label"], Y)


def test_a_name_and_a_folder_are_sources(tmp_path):
  assert len(open_data("data", "digits", split="test")) == 599
  from PIL import Image

  (tmp_path / "cat").mkdir()
  Image.new("RGB", (4, 3)).save(tmp_path / "cat" / "0.png")
  for path in (tmp_path, str(tmp_path)):
    assert len(open_data("data", path)) == 1


def test_batches_get_masks_and_one_shape_and_start_anew():
  stream = open_data("data", Loader())
  assert isinstance(stream, BatchStream)
  assert stream.steps == 2
  assert stream.first()["image"].shape == (3, 2)
  assert stream.taken == 0
  seen = [stream.take() for _ in range(3)]
  assert [b["mask"].tolist() for b in seen] == [
    [True] * 3,
    [True, True, False],
    [True] * 3,
  ]
  assert seen[1]["label"].tolist() == [3, 4, 3]  # filled with its own rows
  np.testing.assert_array_equal(seen[2]["image"], X[:3])


def test_the_mask_of_a_short_batch_keeps_what_it_masks_itself():
  tokens = np.array([[True, False], [True, True]])
  batches = [
    {"tokens": np.ones((2, 2)), "mask": tokens},
    {"tokens": np.ones((1, 2)), "mask": tokens[:1]},
  ]
  stream = open_data("data", batches)
  stream.take()
  assert stream.take()["mask"].tolist() == [[True, False], [False, False]]


def test_a_stream_goes_on_where_it_was():
  grain = pytest.importorskip("grain")
  source = data.ArraySource(X.reshape(5, 2, 1, 1), Y)
  stream = open_data("data", data.batches(source, 2, seed=3))
  taken = [stream.take()["label"].tolist() for _ in range(4)]
  position, after = stream.position(), stream.take()["label"].tolist()
  assert len(set(map(tuple, taken))) > 1
  again = open_data("data", data.batches(source, 2, seed=3))
  again.resume(position, 4)
  assert again.taken == 4
  assert again.take()["label"].tolist() == after
  # A loader that cannot tell where it is reads as many batches.
  loader = open_data("data", Loader())
  assert loader.position() is None
  loader.resume(None, 3)
  assert loader.take()["label"].tolist() == [3, 4, 3]
  batches = grain.MapDataset.source(Pairs()).batch(2)
  assert isinstance(open_data("data", batches), BatchStream)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"image": X, "label": Y[:3]}, r"data\['label'\] has 3 examples; expected"),
    ({"image": X[:0]}, "data is empty"),
    ({}, "data is an empty mapping"),
    ({"image": X, "label": 3}, r"data\['label'\] is a single number"),
    ({"image": ["a.png"]}, r"data\['image'\] has the dtype"),
    ([], "data is empty"),
    (X, r"data is an array of shape \(5, 2\)"),
    (3, "data is a int"),
    ([{"image": X[0], "label": 1}], "data is a list of examples"),
    ([3.0], r"data\[0\] is a float"),
    (iter([]), "data is empty and ended after 0 batches"),
    ([(X, Y), (X[:, 0], Y[:2])], "entries of the shapes"),
    ([(X[:2], Y[:2]), (X, Y)], "has 5 examples; expected 2"),
  ],
)
def test_errors_name_the_argument(value, message):
  def take_two():
    opened = open_data("data", value)
    for _ in range(2):
      opened.take()

  with pytest.raises((TypeError, ValueError), match=message):
    take_two()


def test_pairs_are_refused_where_the_network_has_several_inputs():
  with pytest.raises(TypeError, match="data is a pair"):
    open_data("data", (X, Y), pair=None)


def test_examples_of_several_shapes_are_refused():
  class Ragged(Pairs):
    def __getitem__(self, index):
      return np.ones(index + 1), index

  opened = open_data("data", Ragged())
  with pytest.raises(ValueError, match="'image' do not fit into one batch"):
    opened.in_memory()
