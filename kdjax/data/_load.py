"""Data sets by name: the embedded digits and everything that tfds prepared."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from kdjax.data._optional_packages import require
from kdjax.data._sources import ArraySource
from kdjax.data._sources import Source
from kdjax.data._sources import held_out
from kdjax.ops import check_choice


def load(
  name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Source:
  """Opens one split of a data set by its name.

  Args:
    name: "digits" for `digits`; any other name, such as "mnist",
      "fashion_mnist", "cifar10", "cifar100" or "svhn_cropped", is read by
      `tfds_source`.
    split: "train" or "test"; a tfds set also takes tfds's own syntax, such as
      "train[:80%]".
    data_dir: where tfds keeps its prepared sets; see `tfds_source`.

  Returns:
    A source of {"image": uint8 [height, width, channels], "label": int}.

  Raises:
    ValueError: if there is no such set or split.
    FileNotFoundError: if a tfds set is not prepared; says which command does.
    ImportError: if the extra is not installed.

  Examples:
    >>> source = load("digits", "train")
    >>> len(source), source[0]["image"].shape
    (1198, (8, 8, 1))

  References:
    `tfds.data_source
    <https://www.tensorflow.org/datasets/api_docs/python/tfds/data_source>`_.
  """
  if name == "digits":
    return digits(split)
  return tfds_source(name, split, data_dir=data_dir)


def digits(split: str) -> ArraySource:
  """Handwritten digits (UCI): 1,797 real 8x8 images that need no download.

  scikit-learn brings them along, with values 0..16: counts of ink in 4x4
  blocks. They are scaled to 0..255 like the images of every other set.

  Args:
    split: "train" (1,198 images) or "test" (599), drawn once and for all, each
      class in proportion.

  Returns:
    A source of {"image": uint8 [8, 8, 1], "label": 0..9}.

  Raises:
    ValueError: if there is no such split.
    ImportError: if the extra is not installed.

  Examples:
    >>> digits("test").images.shape
    (599, 8, 8, 1)

  References:
    Alpaydin and Kaynak, `Optical recognition of handwritten digits
    <https://archive.ics.uci.edu/dataset/80>`_, 1998;
    `sklearn.datasets.load_digits
    <https://scikit-learn.org/stable/datasets/toy_dataset.html>`_.
  """
  check_choice("split", split, ("train", "test"))
  bunch = require("sklearn.datasets").load_digits()
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = bunch.target.astype(np.int32)
  chosen = held_out(labels, 1 / 3, seed=0) == (split == "test")
  return ArraySource(images[chosen], labels[chosen])


def tfds_source(
  name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Source:
  """Opens a set that TensorFlow Datasets prepared, without TensorFlow.

  Reading needs files in the array_record format. Preparing them needs
  TensorFlow, once, on any machine; the error for a missing set names the
  command. Nothing is downloaded here.

  Args:
    name: tfds's name, such as "mnist", "cifar10" or "mnist:3.0.1".
    split: tfds's split, such as "train", "test" or "train[:80%]".
    data_dir: where the prepared sets are; None is tfds's own default, that is
      $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Returns:
    A source of {"image": uint8 [height, width, channels], "label": int} that
    decodes an image when it is asked for it.

  Raises:
    ValueError: if tfds knows no such set or split, or if the set's features
      are not an image and a class.
    FileNotFoundError: if the set is not prepared; says which command does.
    ImportError: if the extra is not installed.

  References:
    `tfds.data_source
    <https://www.tensorflow.org/datasets/api_docs/python/tfds/data_source>`_.
  """
  tfds = require("tensorflow_datasets")
  require("array_record.python.array_record_data_source")
  # Any version: makes tfds look for files before it runs the code that would
  # prepare them, some of which imports TensorFlow.
  versioned = name if ":" in name else f"{name}:*.*.*"
  try:
    records = tfds.data_source(
      versioned, split=split, data_dir=data_dir, download=False
    )
  except tfds.core.DatasetNotFoundError:
    # tfds's own message is a list of a thousand names.
    raise ValueError(
      f"tfds has no data set {name!r}, and none is prepared under that name in "
      f"{data_dir or tfds.core.constants.DATA_DIR}."
    ) from None
  except (
    NotImplementedError,
    AssertionError,
    ImportError,
    KeyError,
  ) as error:
    # tfds's ways to say that there are no files, or none in this format: they
    # differ with data_dir, the version, and whether a builder needs TensorFlow.
    place = f", data_dir={str(data_dir)!r}" if data_dir else ""
    raise FileNotFoundError(
      f"{name} is not prepared in the array_record format. Prepare it once, "
      "where tensorflow is installed and the network can be reached:\n"
      'python -c "import tensorflow_datasets as tfds; '
      f"tfds.builder({name!r}{place}, file_format='array_record')"
      '.download_and_prepare()"'
    ) from error
  return _TfdsSource(records)


class _TfdsSource:
  """The image and the label of tfds records."""

  def __init__(self, records: Any):
    tfds = require("tensorflow_datasets")
    info = records.dataset_info
    features = dict(info.features)
    expected = {
      "image": tfds.features.Image,
      "label": tfds.features.ClassLabel,
    }
    for name, kind in expected.items():
      if not isinstance(features.get(name), kind):
        raise ValueError(
          f"{info.name} has the features {features}; expected {name!r} to be "
          f"tfds.features.{kind.__name__}."
        )
    self._records = records

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """All labels, read without decoding one image."""
    skip = {"image": require("tensorflow_datasets").decode.SkipDecoding()}
    records = dataclasses.replace(self._records, decoders=skip)
    return np.array([record["label"] for record in records], np.int32)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    record = self._records[index]
    return {"image": record["image"], "label": int(record["label"])}
