import numpy as np
import pytest
from PIL import Image

from kdjax import data


@pytest.fixture
def folder(tmp_path):
  for name, value, mode in (("dog", 9, "RGB"), ("cat", 5, "RGB")):
    (tmp_path / name).mkdir()
    for i in range(2):
      color = (value, i, 0)
      Image.new(mode, (4, 3), color).save(tmp_path / name / f"{i}.png")
  (tmp_path / "empty").mkdir()
  (tmp_path / "cat" / "notes.txt").write_text("no image")
  return tmp_path


def test_sub_folders_are_the_classes_in_alphabetical_order(folder):
  source = data.image_folder(folder)
  assert source.classes == ("cat", "dog")
  assert source.labels.tolist() == [0, 0, 1, 1]
  read = data.as_arrays(source)
  assert read["image"].shape == (4, 3, 4, 3)
  assert read["image"].dtype == np.uint8
  assert read["image"][:, 0, 0, :2].tolist() == [[5, 0], [5, 1], [9, 0], [9, 1]]


def test_grayscale_has_one_channel_and_images_can_be_resized(tmp_path):
  for name, size in (("a", (4, 3)), ("b", (8, 6))):
    (tmp_path / name).mkdir()
    Image.new("L", size, 7).save(tmp_path / name / "0.png")
  read = data.as_arrays(data.image_folder(tmp_path, size=(2, 5)))
  assert read["image"].shape == (2, 2, 5, 1)
  assert np.all(read["image"] == 7)


def test_another_shape_names_the_file_and_the_fix(folder):
  Image.new("RGB", (5, 3)).save(folder / "dog" / "odd.png")
  source = data.image_folder(folder)
  with pytest.raises(ValueError, match=r"odd\.png has the shape .*size="):
    data.as_arrays(source)


def test_a_folder_without_classes_is_refused(folder, tmp_path):
  with pytest.raises(ValueError, match="no sub-folder with images"):
    data.image_folder(folder / "cat")
  with pytest.raises(FileNotFoundError, match="there is no folder"):
    data.image_folder(tmp_path / "missing")
  with pytest.raises(ValueError, match="size is"):
    data.image_folder(folder, size=(0, 3))
