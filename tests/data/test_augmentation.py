import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data import (
  channel_statistics,
  cutout,
  mixup,
  normalize,
  random_crop,
  random_flip,
  random_resized_crop,
  resize,
)

KEY = jax.random.key(0)
DTYPES = [jnp.uint8, jnp.bfloat16, jnp.float32]


def images(dtype=jnp.float32, batch=6):
  """Images of distinct positive pixels that every dtype holds exactly."""
  pixels = 1 + np.arange(batch * 5 * 4 * 2) % 250
  return jnp.asarray(pixels.reshape(batch, 5, 4, 2), dtype)


AUGMENTATIONS = {
  "crop": lambda key, x: random_crop(key, x, padding=2),
  "flip": random_flip,
  "cutout": lambda key, x: cutout(key, x, size=2),
}
COMPILED = {name: jax.jit(augment) for name, augment in AUGMENTATIONS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_dtype_and_key(name, dtype):
  augment, x = COMPILED[name], images(dtype)
  result = augment(KEY, x)
  assert (result.shape, result.dtype) == (x.shape, dtype)
  np.testing.assert_array_equal(result, augment(KEY, x))
  assert np.any(result != np.asarray(augment(jax.random.key(1), x)))
  # Each image draws for itself: equal images do not stay equal.
  first = np.asarray(x)[:1]
  same = np.asarray(augment(KEY, np.broadcast_to(first, x.shape)))
  assert np.any(same != same[:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_jit_equals_eager(name):
  np.testing.assert_array_equal(
    COMPILED[name](KEY, images()), AUGMENTATIONS[name](KEY, images())
  )


def test_crop_cuts_windows_of_the_padded_image():
  x = images(batch=64)

  @jax.jit
  def crops(x):
    return [random_crop(KEY, x, padding=padding) for padding in (0, 1)]

  same, moved = crops(x)
  np.testing.assert_array_equal(same, x)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  seen = set()
  for window, image in zip(padded, np.asarray(moved), strict=True):
    seen |= {
      (i, j)
      for i in range(3)
      for j in range(3)
      if (window[i : i + 5, j : j + 4] == image).all()
    }
  assert len(seen) == 9, "every shift occurs"
  with pytest.raises(ValueError, match="padding is -1"):
    random_crop(KEY, x, padding=-1)


def test_flip_mirrors_left_to_right():
  x = np.asarray(images(batch=64))

  @jax.jit
  def flip(x):
    never, always = (random_flip(KEY, x, probability=p) for p in (0.0, 1.0))
    return never, always, random_flip(KEY, x)

  never, always, sometimes = flip(x)
  np.testing.assert_array_equal(never, x)
  np.testing.assert_array_equal(always, x[:, :, ::-1])
  flips = (sometimes == x[:, :, ::-1]).all((1, 2, 3))
  assert 16 < flips.sum() < 48
  with pytest.raises(ValueError, match="probability is 2"):
    random_flip(KEY, x, probability=2)


def test_cutout_blackens_one_square():
  x = np.asarray(images(batch=64))
  cut = jax.jit(lambda x: [cutout(KEY, x, size=size) for size in (0, 2)])
  same, result = map(np.asarray, cut(x))
  np.testing.assert_array_equal(same, x)
  black = (result == 0).all(-1)
  np.testing.assert_array_equal(result, np.where(black[..., None], 0, x))
  # A centre on the first row or column leaves a part of the square.
  assert {1, 2, 4} == set(black.sum((1, 2)).tolist())
  for mask in black:
    rows, columns = np.nonzero(mask)
    assert mask.sum() == len(set(rows)) * len(set(columns))


def test_cutout_size_may_be_traced():
  x = images()

  @jax.jit
  def cut(sizes):
    mapped = jax.vmap(lambda size: cutout(KEY, x, size=size))(sizes)
    return mapped, cutout(KEY, x, size=4)

  result, expected = cut(np.array([0, 4]))
  np.testing.assert_array_equal(result[0], x)
  np.testing.assert_array_equal(result[1], expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_mixup_blends_images_and_labels_alike(dtype):
  x = jnp.asarray(np.random.default_rng(0).random((6, 5, 4, 2)), dtype)
  labels = np.eye(6, dtype=np.float32)
  mixed, soft = jax.jit(lambda x: mixup(KEY, x, labels, alpha=1.0))(x)
  assert (mixed.shape, mixed.dtype) == (x.shape, dtype)
  np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-6)
  # The soft labels of an identity are the blending matrix itself.
  expected = np.einsum("ij,jhwc->ihwc", soft, np.float32(x))
  tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-6
  np.testing.assert_allclose(
    np.float32(mixed), expected, rtol=tolerance, atol=tolerance
  )


@pytest.mark.slow
def test_mixup_takes_a_traced_alpha_under_jit():
  x, labels = np.asarray(images()) / 255, np.eye(6, dtype=np.float32)
  compiled = jax.jit(mixup)
  for alpha in (0.2, 1.0):
    jitted = compiled(KEY, x, labels, alpha=alpha)
    for a, b in zip(jitted, mixup(KEY, x, labels, alpha=alpha), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_mixup_ratio_follows_alpha():
  x, labels = np.asarray(images()) / 255, np.eye(6, dtype=np.float32)

  @jax.jit
  def soft_labels(alpha):
    keys = jax.random.split(KEY, 60)
    return jax.vmap(lambda key: mixup(key, x, labels, alpha=alpha)[1])(keys)

  def mean_ratio(alpha):
    # The larger share, in the rows whose partner is not themselves.
    return np.asarray(soft_labels(alpha)).max(-1).min(-1).mean()

  # max(r, 1 - r) has the mean 3/4 for a uniform r and nears 1 for small alpha.
  assert abs(mean_ratio(1.0) - 0.75) < 0.08
  assert mean_ratio(0.01) > 0.95


def test_mixup_errors():
  labels = jnp.eye(6)
  with pytest.raises(TypeError, match="images has dtype uint8; expected float"):
    mixup(KEY, images(jnp.uint8), labels)
  with pytest.raises(ValueError, match=r"labels has shape \(5, 5\)"):
    mixup(KEY, images(), jnp.eye(5))
  with pytest.raises(ValueError, match="alpha is 0"):
    mixup(KEY, images(), labels, alpha=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize_gives_mean_zero_and_deviation_one(dtype):
  x = images(dtype)
  mean, std = channel_statistics(np.asarray(x, np.float32))
  result = jax.jit(normalize)(x, mean, std)
  assert result.dtype == (dtype if dtype == jnp.bfloat16 else jnp.float32)
  expected = (np.asarray(x, np.float64) - mean) / std
  tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-5
  np.testing.assert_allclose(
    np.float32(result), expected, rtol=tolerance, atol=tolerance
  )


def test_normalize_rejects_other_channels():
  with pytest.raises(ValueError, match=r"mean has shape \(3,\)"):
    normalize(images(), jnp.zeros(3), jnp.ones(3))


def test_channel_statistics_equal_numpy_on_more_than_one_part():
  x = np.random.default_rng(0).integers(0, 256, (2500, 3, 2, 2), np.uint8)
  x[..., 1] = 7
  mean, std = channel_statistics(x)
  assert mean.dtype == std.dtype == np.float32
  np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(std, [x[..., 0].std(), 1.0], rtol=1e-6)


@pytest.mark.slow
def test_inception_crops_are_parts_of_the_image():
  rows, columns = np.mgrid[:40, :60].astype(np.float32)
  ramps = np.stack([rows, columns], -1)
  whole = images(jnp.uint8)[:, :4]

  @jax.jit
  def crop(ramps, whole):
    return random_resized_crop(
      KEY, ramps, (20, 30), area=(0.2, 0.6), aspect=(0.5, 1.5)
    ), random_resized_crop(
      KEY, whole, (4, 4), area=(1.0, 1.0), aspect=(1.0, 1.0)
    )

  crops, same = crop(np.broadcast_to(ramps, (64, 40, 60, 2)), whole)
  crops = np.asarray(crops)
  # A crop of a ramp is a ramp: its slope tells the size, its ends the place.
  # At the image's own border the ramp is cut, so only inner pixels count.
  height = 20 * np.diff(crops[:, 5:-5, 10, 0]).mean(-1)
  width = 30 * np.diff(crops[:, 5, 5:-5, 1]).mean(-1)
  share, aspect = height * width / 2400, width / height
  assert 0.2 - 1e-4 < share.min() < 0.25 < 0.5 < share.max() < 0.6 + 1e-4
  assert 0.5 - 1e-4 < aspect.min() < 0.7 < 1.3 < aspect.max() < 1.5 + 1e-4
  centre = crops[:, 9:11, 10, 0].mean(-1) + 0.5
  assert np.all(centre - height / 2 > -1e-3)
  assert np.all(centre + height / 2 < 40 + 1e-3)
  np.testing.assert_array_equal(same, whole)
  with pytest.raises(ValueError, match=r"area is \(0.5, 2.0\); expected an "):
    random_resized_crop(KEY, whole, (4, 4), area=(0.5, 2.0))


@pytest.mark.parametrize("shape", [4, (4, 4, 1), (4.0, 4.0), (0, 4)])
def test_a_shape_is_two_integers(shape):
  images = jnp.ones((1, 8, 8, 1))
  with pytest.raises(ValueError, match=r"shape is .*; expected 2 positive int"):
    inspect.unwrap(random_resized_crop)(jax.random.key(0), images, shape)
  with pytest.raises(ValueError, match=r"shape is .*; expected 2 positive int"):
    inspect.unwrap(resize)(images, shape)
