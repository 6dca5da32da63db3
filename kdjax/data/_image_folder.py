"""Folders of images, with one sub-folder for each class."""

import os
import pathlib
from typing import Any

import numpy as np

from kdjax import ops
from kdjax.data._optional_packages import require
from kdjax.data._sources import Source

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".webp"}


def image_folder(
  path: str | os.PathLike[str], *, size: tuple[int, int] | None = None
) -> Source:
  """Opens a folder of images whose sub-folders are the classes.

  The labels number the sub-folders in alphabetical order; the attribute
  `classes` of the source lists them. An image is decoded when the example is
  read: a grayscale file to one channel, any other file to red, green and blue.

  Args:
    path: the folder, with `class_a/1.png`, `class_b/2.jpg` and so on.
    size: the (height, width) to which images are resized. None does not resize:
      all images must then have one shape.

  Returns:
    A source of {"image": uint8 [height, width, channels], "label": int}.

  Raises:
    FileNotFoundError: if the folder does not exist.
    ValueError: if the folder has no sub-folder with images; from the source, if
      an image has another shape than the first.
    ImportError: if Pillow is not installed.

  Examples:
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for name in ("cat", "dog"):
    ...     pathlib.Path(folder, name).mkdir()
    ...     Image.new("RGB", (4, 3)).save(f"{folder}/{name}/1.png")
    ...   source = image_folder(folder)
    ...   source.classes, source[1]["label"], source[1]["image"].shape
    (('cat', 'dog'), 1, (3, 4, 3))

  References:
    `torchvision.datasets.ImageFolder
    <https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html>`_.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise FileNotFoundError(
      f"image_folder: there is no folder {str(root)!r}; expected a folder with "
      "a sub-folder for each class."
    )
  if size is not None:
    size = ops.as_sizes("image_folder: size", size, 2)
  files, labels, classes = [], [], []
  for folder in sorted(x for x in root.iterdir() if x.is_dir()):
    images = sorted(
      x for x in folder.rglob("*") if x.suffix.lower() in _SUFFIXES
    )
    if images:
      files += images
      labels += [len(classes)] * len(images)
      classes.append(folder.name)
  if not files:
    raise ValueError(
      f"image_folder: {str(root)!r} has no sub-folder with images; expected "
      "one for each class, such as cat/1.png and dog/2.png."
    )
  return _ImageFolder(files, np.array(labels, np.int32), tuple(classes), size)


class _ImageFolder:
  """A source of the images of a folder, decoded on demand."""

  def __init__(
    self,
    files: list[pathlib.Path],
    labels: np.ndarray,
    classes: tuple[str, ...],
    size: tuple[int, int] | None,
  ):
    self._image = require("PIL.Image")
    self._files = files
    self._size = size
    self.labels = labels
    self.classes = classes
    self._shape = self._decode(files[0]).shape

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int, /) -> dict[str, Any]:
    file = self._files[index]
    image = self._decode(file)
    if image.shape != self._shape:
      raise ValueError(
        f"{file} has the shape {image.shape}; expected {self._shape}, the "
        f"shape of {self._files[0]}. Resize all images: "
        "data.image_folder(path, size=(height, width))."
      )
    return {"image": image, "label": int(self.labels[index])}

  def _decode(self, file: pathlib.Path) -> np.ndarray:
    with self._image.open(file) as image:
      image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
      if self._size is not None:
        image = image.resize(self._size[::-1], self._image.Resampling.BILINEAR)
      pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
