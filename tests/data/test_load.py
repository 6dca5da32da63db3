"""tfds sets, on a small one that is prepared here without TensorFlow."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from kdjax.data import as_arrays, few_per_class, load, tfds_source

COUNTS = {"train": 7, "test": 3}


def pixels(i):
  return np.full((6, 5, 3), 20 * i, np.uint8)


def prepare(set_name, image_key, label, data_dir):
  """Writes a set of constant images with tfds's own writer."""
  import tensorflow_datasets as tfds
  from PIL import Image

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = set_name
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
      features = {image_key: tfds.features.Image(shape=(6, 5, 3)), **label}
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {part: self._generate_examples(n) for part, n in COUNTS.items()}

    def _generate_examples(self, count):
      for i in range(count):
        # tfds encodes arrays with TensorFlow, but takes a ready file as it is.
        png = io.BytesIO()
        Image.fromarray(pixels(i)).save(png, "png")
        png.seek(0)
        yield i, {image_key: png, next(iter(label)): i % 3}

  Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  import tensorflow_datasets as tfds

  folder = tmp_path_factory.mktemp("tfds")
  classes = tfds.features.ClassLabel(num_classes=3)
  prepare("kdjax_tiny", "image", {"label": classes}, folder)
  prepare("kdjax_picture", "picture", {"label": classes}, folder)
  prepare(
    "kdjax_age", "image", {"label": tfds.features.Scalar(np.int64)}, folder
  )
  return folder


def test_reads_what_was_prepared(data_dir):
  source = load("kdjax_tiny", "train", data_dir=data_dir)
  arrays = as_arrays(source)
  assert arrays["image"].dtype == np.uint8
  assert arrays["label"].dtype == np.int32
  # tfds shuffles when it writes.
  order = arrays["image"][:, 0, 0, 0] // 20
  assert sorted(order) == list(range(7))
  np.testing.assert_array_equal(arrays["image"], [pixels(i) for i in order])
  np.testing.assert_array_equal(arrays["label"], order % 3)
  np.testing.assert_array_equal(source.labels, arrays["label"])
  assert len(few_per_class(source, 2)) == 6


def test_takes_versions_and_slices(data_dir):
  assert len(load("kdjax_tiny:1.2.0", "test", data_dir=data_dir)) == 3
  assert len(load("kdjax_tiny", "train[:2]", data_dir=data_dir)) == 2
  with pytest.raises(ValueError, match="Unknown split 'validation'"):
    load("kdjax_tiny", "validation", data_dir=data_dir)


# orbax-checkpoint 0.12.8 names it, and jax 0.12 warns of it.
OF_ORBAX = "ignore:jax.sharding.SingleDeviceSharding is deprecated"


@pytest.mark.slow
def test_reads_without_tensorflow_and_without_a_warning(data_dir):
  code = f"""
import json, sys
import numpy as np
from kdjax.data import as_arrays, batches, load
source = load("kdjax_tiny", "train", data_dir={str(data_dir)!r})
shape = as_arrays(source)["image"].shape
seen = [int(i) for b in batches(source, 4, epochs=1) for i in b["index"]]
print(json.dumps([shape, len(seen), "tensorflow" in sys.modules]))
"""
  done = subprocess.run(
    [sys.executable, "-W", "error", "-W", OF_ORBAX, "-c", code],
    capture_output=True,
    text=True,
    check=True,
  )
  last = done.stdout.splitlines()[-1]
  assert json.loads(last) == [[7, 6, 5, 3], 8, False]


@pytest.mark.parametrize("given", [True, False])
def test_unprepared_set_names_the_command(tmp_path, monkeypatch, given):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  folder = tmp_path if given else None
  with pytest.raises(FileNotFoundError) as error:
    tfds_source("cifar10", "train", data_dir=folder)
  place = f", data_dir={str(tmp_path)!r}" if given else ""
  assert (
    f"tfds.builder('cifar10'{place}, file_format='array_record')"
    ".download_and_prepare()" in str(error.value)
  )
  assert not list(tmp_path.iterdir()), "nothing is downloaded or created"


def test_unknown_set_is_said_in_one_line(tmp_path):
  with pytest.raises(ValueError, match=r"tfds has no data set 'minst'.*") as e:
    tfds_source("minst", "train", data_dir=tmp_path)
  assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("kdjax_picture", "expected 'image' to be tfds.features.Image"),
    ("kdjax_age", "expected 'label' to be tfds.features.ClassLabel"),
  ],
)
def test_other_features_are_named(data_dir, name, message):
  with pytest.raises(ValueError, match=message):
    load(name, "train", data_dir=data_dir)
