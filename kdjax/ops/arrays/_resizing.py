"""Pooling and resizing of feature maps, as in PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdjax.ops.probabilities._softmax import compute_dtype


def adaptive_mean_pool(
  maps: Float[Array, "batch height width channels"], size: tuple[int, ...]
) -> Float[Array, "batch new_height new_width channels"]:
  """Averages over bins that cover the map, as `adaptive_avg_pool2d` does.

  Bins overlap if the new size does not divide the old size. The result is
  float32 for half-precision maps.

  Args:
    maps: `[batch, height, width, channels]`.
    size: the new height and width.

  Returns:
    `[batch, new_height, new_width, channels]`.
  """
  maps = maps.astype(compute_dtype(maps))
  if maps.shape[1:3] == tuple(size):
    return maps
  rows, columns = (
    jnp.asarray(_bins(old, new), maps.dtype)
    for old, new in zip(maps.shape[1:3], size, strict=True)
  )
  contract = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  maps = contract("bhwc,vw->bhvc", maps, columns)
  return contract("bhvc,uh->buvc", maps, rows)


def pool_to_smaller(student: Array, teacher: Array) -> tuple[Array, Array]:
  """Pools the larger of two maps to the size of the smaller map.

  Args:
    student: `[batch, height, width, channels]`.
    teacher: `[batch, height, width, channels]`; height and width may differ.

  Returns:
    Both maps, with equal heights and widths.
  """
  student_size, teacher_size = student.shape[1:3], teacher.shape[1:3]
  size = min(student_size, teacher_size, key=lambda size: size[0] * size[1])
  if any(
    a < b
    for maps in (student_size, teacher_size)
    for a, b in zip(maps, size, strict=True)
  ):
    raise ValueError(
      f"student has a map of {student_size} and teacher a map of "
      f"{teacher_size}; expected one of them to be at most as high and at most "
      "as wide as the other."
    )
  return adaptive_mean_pool(student, size), adaptive_mean_pool(teacher, size)


def nearest_resize(
  maps: Float[Array, "batch height width channels"], size: tuple[int, ...]
) -> Float[Array, "batch new_height new_width channels"]:
  """Takes the pixel `floor(i old / new)`, as PyTorch's `interpolate` does.

  `jax.image.resize` takes the pixel at the center of the source pixels, which
  differs if the map becomes smaller.

  Args:
    maps: `[batch, height, width, channels]`.
    size: the new height and width.

  Returns:
    `[batch, new_height, new_width, channels]`.
  """
  if maps.shape[1:3] == tuple(size):
    return maps
  rows, columns = (
    _nearest(old, new) for old, new in zip(maps.shape[1:3], size, strict=True)
  )
  return maps[:, rows][:, :, columns]


def _bins(old: int, new: int) -> np.ndarray:
  """Returns the matrix `[new, old]` that averages over bins."""
  start = np.arange(new) * old // new
  end = -(-(np.arange(new) + 1) * old // new)
  inside = (start[:, None] <= np.arange(old)) & (np.arange(old) < end[:, None])
  return inside / inside.sum(1, keepdims=True)


def _nearest(old: int, new: int) -> np.ndarray:
  """Returns the positions of the pixels; PyTorch multiplies in float32."""
  scale = np.float32(old / new)
  positions = np.floor(np.arange(new, dtype=np.float32) * scale)
  return np.minimum(positions.astype(int), old - 1)
