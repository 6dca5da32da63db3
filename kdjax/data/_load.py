"""Data sets by name: the embedded digits and prepared sets of tfds."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from kdjax import ops
from kdjax.data._optional_packages import require
from kdjax.data._sources import ArraySource, Source, held_out


def load(
  name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Source:
  """Opens one split of a data set by its name.

  Args:
    name: "digits" for `digits`. `tfds_source` reads any other name, such as
      "mnist", "fashion_mnist", "cifar10", "cifar100" or "svhn_cropped".
    split: "train" or "test"; for a tfds set also a split of tfds, such as
      "train[:80%]".
    data_dir: the folder of the prepared tfds sets; see `tfds_source`.

  Returns:
    A source of {"image": uint8 [height, width, channels], "label": int}.

  Raises:
    ValueError: if the set or the split is unknown.
    FileNotFoundError: if a tfds set is not prepared. The message contains the
      command that prepares it.
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
  """Handwritten digits (UCI): 1,797 real 8x8 images, without download.

  scikit-learn contains them, with values 0..16 that count dark pixels in 4x4
  blocks. They are scaled to 0..255 like the images of all other sets.

  Args:
    split: "train" (1,198 images) or "test" (599). The split is fixed and
      stratified by class.

  Returns:
    A source of {"image": uint8 [8, 8, 1], "label": 0..9}.

  Raises:
    ValueError: if the split is unknown.
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
  ops.check_choice("split", split, ("train", "test"))
  bunch = require("sklearn.datasets").load_digits()
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = bunch.target.astype(np.int32)
  chosen = held_out(labels, 1 / 3, seed=0) == (split == "test")
  return ArraySource(images[chosen], labels[chosen])


def tfds_source(
  name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Source:
  """Opens a prepared set of TensorFlow Datasets, without TensorFlow.

  Reading needs files in the array_record format. Their preparation needs
  TensorFlow, once, on any machine; the error for a missing set contains the
  command. This function downloads nothing.

  Args:
    name: the name in tfds, such as "mnist", "cifar10" or "mnist:3.0.1".
    split: the split in tfds, such as "train", "test" or "train[:80%]".
    data_dir: the folder of the prepared sets; None for the default of tfds,
      $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Returns:
    A source of {"image": uint8 [height, width, channels], "label": int}. It
    decodes an image when the example is read.

  Raises:
    ValueError: if tfds does not know the set or the split, or if the features
      of the set are not an image and a class.
    FileNotFoundError: if the set is not prepared. The message contains the
      command that prepares it.
    ImportError: if the extra is not installed.

  References:
    `tfds.data_source
    <https://www.tensorflow.org/datasets/api_docs/python/tfds/data_source>`_.
  """
  tfds = require("tensorflow_datasets")
  require("array_record.python.array_record_data_source")
  # With "*.*.*", tfds looks for files of any version before it runs the code of
  # the builder, which may import TensorFlow.
  versioned = name if ":" in name else f"{name}:*.*.*"
  try:
    records = tfds.data_source(
      versioned, split=split, data_dir=data_dir, download=False
    )
  except tfds.core.DatasetNotFoundError:
    # The message of tfds lists a thousand names.
    raise ValueError(
      f"tfds has no data set {name!r}, and none is prepared under that name in "
      f"{data_dir or tfds.core.constants.DATA_DIR}; expected a name such as "
      "'mnist'."
    ) from None
  except (
    NotImplementedError,
    AssertionError,
    ImportError,
    KeyError,
  ) as error:
    # tfds raises these errors if files are missing or in another format. The
    # kind depends on data_dir, on the version and on the builder.
    folder = f", data_dir={str(data_dir)!r}" if data_dir else ""
    raise FileNotFoundError(
      f"{name} is not prepared in the array_record format. Prepare it once, "
      "on a machine with tensorflow and network access:\n"
      'python -c "import tensorflow_datasets as tfds; '
      f"tfds.builder({name!r}{folder}, file_format='array_record')"
      '.download_and_prepare()"'
    ) from error
  return _TfdsSource(records)


class _TfdsSource:
  """A source of the images and labels of tfds records."""

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
    """All labels, read without decoding images."""
    skip = {"image": require("tensorflow_datasets").decode.SkipDecoding()}
    records = dataclasses.replace(self._records, decoders=skip)
    return np.array([record["label"] for record in records], np.int32)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    record = self._records[index]
    return {"image": record["image"], "label": int(record["label"])}
