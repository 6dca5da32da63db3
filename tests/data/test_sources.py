import inspect
import subprocess
import sys

import numpy as np
import pytest

from kdjax.data import (
  ArraySource,
  as_arrays,
  batches,
  digits,
  few_per_class,
  load,
  pair,
  split,
  subset,
  without_classes,
)


def numbered(labels):
  """A source whose pixel is the example's index."""
  images = np.arange(len(labels), dtype=np.int32)[:, None, None, None]
  return ArraySource(images, np.asarray(labels))


def members(source):
  return as_arrays(source)["image"].ravel().tolist()


def test_digits_are_the_1797_images_once_in_0_to_255():
  from sklearn.datasets import load_digits

  train, test = as_arrays(digits("train")), as_arrays(digits("test"))
  assert train["image"].shape == (1198, 8, 8, 1)
  assert test["image"].shape == (599, 8, 8, 1)
  assert train["image"].dtype == np.uint8
  assert train["label"].dtype == np.int32
  together = np.concatenate([train["image"], test["image"]])[..., 0]
  assert together.max() == 255
  counts = np.rint(together * (16 / 255)).astype(int).reshape(1797, 64)
  expected = load_digits().data.astype(int)
  assert sorted(counts.tolist()) == sorted(expected.tolist())


def test_digits_split_never_changes():
  labels = digits("test").labels
  assert labels[:12].tolist() == [1, 2, 4, 5, 6, 9, 4, 7, 8, 9, 2, 7]
  assert int(digits("test").images.astype(np.int64).sum()) == 2_978_019
  assert np.bincount(labels).tolist() == [
    59, 61, 59, 61, 60, 61, 60, 60, 58, 60,
  ]  # fmt: skip


def test_load_opens_digits_and_rejects_other_splits():
  assert len(load("digits", "train")) == 1198
  with pytest.raises(ValueError, match="split is 'all'; expected one of"):
    load("digits", "all")


def test_example_is_one_image_and_a_python_int():
  example = digits("train")[3]
  assert example["image"].shape == (8, 8, 1)
  assert type(example["label"]) is int


def test_array_source_rejects_shapes_that_do_not_fit():
  images = np.zeros((3, 2, 2, 1))
  with pytest.raises(ValueError, match=r"images has shape \(3, 2\)"):
    ArraySource(np.zeros((3, 2)), np.zeros(3, int))
  with pytest.raises(ValueError, match=r"labels has shape \(2,\).*\(3,\)"):
    ArraySource(images, np.zeros(2, int))


def test_as_arrays_names_images_of_two_shapes():
  class Ragged:
    def __len__(self):
      return 2

    def __getitem__(self, index):
      return {"image": np.zeros((4, 4 + index, 1)), "label": 0}

  with pytest.raises(ValueError, match=r"\(4, 4, 1\) and \(4, 5, 1\)"):
    as_arrays(Ragged())


def test_subset_keeps_the_order_asked_for():
  assert members(subset(numbered([0] * 5), [4, 0, 2])) == [4, 0, 2]
  with pytest.raises(ValueError, match=r"indices span 0 to 5; .* 0\.\.4"):
    subset(numbered([0] * 5), [0, 5])


def test_split_is_stratified_complete_and_deterministic():
  source = numbered([0] * 40 + [1] * 20 + [2] * 4)
  train, held_out = split(source, 0.25, seed=3)
  assert np.bincount(as_arrays(held_out)["label"]).tolist() == [10, 5, 1]
  assert sorted(members(train) + members(held_out)) == list(range(64))
  assert members(split(source, 0.25, seed=3)[1]) == members(held_out)
  assert members(split(source, 0.25, seed=4)[1]) != members(held_out)
  with pytest.raises(ValueError, match=r"fraction is 1\.5"):
    split(source, 1.5)


def test_few_per_class_grows_with_count():
  source = numbered([0] * 30 + [1] * 30 + [2] * 2)
  three, ten = (few_per_class(source, n, seed=1) for n in (3, 10))
  assert np.bincount(as_arrays(three)["label"]).tolist() == [3, 3, 2]
  assert set(members(three)) < set(members(ten))
  assert members(few_per_class(source, 3, seed=2)) != members(three)
  with pytest.raises(ValueError, match="count is 0"):
    few_per_class(source, 0)


def test_without_classes_keeps_the_labels_of_the_others():
  source = without_classes(numbered([0, 1, 2, 1, 0]), [1])
  assert as_arrays(source)["label"].tolist() == [0, 2, 0]
  assert members(few_per_class(source, 1)) != []


def test_helpers_read_no_image_when_the_source_has_labels():
  class Blind:
    labels = np.array([0, 0, 1, 1])

    def __len__(self):
      return 4

    def __getitem__(self, index):
      raise AssertionError("an image was read")

  train, held_out = split(Blind(), 0.5)
  assert len(few_per_class(train, 1)) == len(held_out) == 2


def test_missing_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
  with pytest.raises(ImportError, match=r'pip install "kdjax\[experiments\]"'):
    digits("train")


@pytest.mark.slow
def test_import_brings_in_no_extra():
  code = (
    "import sys, kdjax.data; "
    "print({'sklearn', 'grain', 'tensorflow_datasets', 'array_record', "
    "'optax', 'flax'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "set()"


def test_a_mask_is_no_index():
  """True would be the example 1, and a share the one below it."""
  source = numbered([0, 1, 2])
  for wrong in (np.array([True, False, True]), [0.5], 3):
    with pytest.raises(TypeError, match=r"indices has dtype .* expected integ"):
      inspect.unwrap(subset)(source, wrong)
  assert len(subset(source, [])) == 0


def test_a_set_of_classes_is_refused():
  """NumPy finds nothing in a set, and all classes would stay."""
  with pytest.raises(TypeError, match=r"classes has dtype object"):
    inspect.unwrap(without_classes)(numbered([0, 1]), {1})
  assert members(inspect.unwrap(without_classes)(numbered([0, 1]), 1)) == [0]


def test_labels_are_integers():
  images = np.ones((2, 1, 1, 1))
  with pytest.raises(TypeError, match=r"labels has dtype float64 .* integers"):
    ArraySource(images, np.array([0.5, 1.5]))
  pairs = [{"image": image, "label": np.eye(2)[0]} for image in images]
  with pytest.raises(TypeError, match=r"source's labels has .* shape \(2, 2\)"):
    split(pairs, 0.5)


def test_examples_have_an_image_and_a_label():
  with pytest.raises(
    ValueError, match=r"the source has \['label'\]; .* 'image"
  ):
    as_arrays([{"label": 0}])
  with pytest.raises(
    ValueError, match=r"source is empty; expected at least one"
  ):
    as_arrays(subset(numbered([0]), []))
  with pytest.raises(TypeError, match=r"source is a dict; expected a Source"):
    inspect.unwrap(as_arrays)({"image": np.ones(2), "label": np.ones(2)})


def test_two_classes_may_be_bool():
  labels = np.arange(6) % 2 == 0
  source = ArraySource(np.zeros((6, 4, 4, 1), np.uint8), labels)
  np.testing.assert_array_equal(as_arrays(source)["label"], labels)
  assert len(without_classes(source, [0])) == 3


def modality(labels, *shape):
  images = np.zeros((len(labels), *shape))
  images += np.arange(len(labels)).reshape(-1, 1, 1, 1)
  return ArraySource(images, np.array(labels))


def test_pairs_are_read_row_by_row():
  paired = pair(
    {
      "image": modality([3, 7, 1], 4, 4, 1),
      "sound": modality([3, 7, 1], 2, 5, 1),
    }
  )
  arrays = as_arrays(subset(paired, [2, 0]))
  assert arrays["image"].shape == (2, 4, 4, 1)
  assert arrays["sound"].shape == (2, 2, 5, 1)
  assert arrays["sound"][:, 0, 0, 0].tolist() == [2, 0]
  assert arrays["label"].tolist() == [1, 3]
  batch = next(batches(paired, 2, shuffle=False))
  assert batch["sound"].shape == (2, 2, 5, 1)
  assert batch["index"].tolist() == [0, 1]


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    ([3, 7], r"sources\['sound'\] has 2 examples and sources\['image'\] 3"),
    (
      [3, 7, 2],
      r"sources\['sound'\] has the label 2 at 2 .* 1; expected pairs",
    ),
  ],
)
def test_what_is_not_paired_is_an_error(labels, message):
  sources = {"image": modality([3, 7, 1], 4, 4, 1)}
  with pytest.raises(ValueError, match=message):
    pair(sources | {"sound": modality(labels, 2, 5, 1)})


def test_modalities_need_names_of_their_own():
  with pytest.raises(ValueError, match="other than label, mask and index"):
    pair({"mask": modality([1], 2, 2, 1)})
  with pytest.raises(ValueError, match="expected one or more"):
    pair({})
  with pytest.raises(TypeError, match="sources is a list; expected a mapping"):
    inspect.unwrap(pair)([modality([1], 2, 2, 1)])
