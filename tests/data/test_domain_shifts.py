import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from kdjax.data import blend_noise, invert, resize, rotate

KEY = jax.random.key(0)
DTYPES = [jnp.uint8, jnp.bfloat16, jnp.float32]
SHIFTS = {
  "rotate": lambda x: rotate(x, 30.0),
  "invert": invert,
  "blend_noise": lambda x: blend_noise(KEY, x, strength=0.5),
  "resize": lambda x: resize(x, (4, 3), crop=1),
}


def images(dtype=jnp.float32, shape=(3, 8, 8, 2)):
  pixels = np.random.default_rng(0).integers(0, 256, shape)
  return jnp.asarray(pixels, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_kept_and_computed_in_float32(name, dtype):
  x = images(dtype)
  result = SHIFTS[name](x)
  assert result.dtype == dtype
  exact = np.asarray(SHIFTS[name](x.astype(jnp.float32)))
  if dtype == jnp.uint8:
    exact = np.rint(exact)
  # Noise is drawn in float32 for each dtype, so it is the same noise.
  tolerance = 2.0**-8 * np.abs(exact) if dtype == jnp.bfloat16 else 1e-4
  assert (np.abs(np.asarray(result, np.float32) - exact) <= tolerance).all()


@pytest.mark.parametrize("name", SHIFTS)
def test_jit_equals_eager(name):
  np.testing.assert_allclose(
    jax.jit(SHIFTS[name])(images()), SHIFTS[name](images()), atol=2e-3
  )


def test_rotate_by_quarters_is_rot90():
  x = images()
  np.testing.assert_array_equal(rotate(x, 0.0), x)
  for quarters in (1, 2, 3):
    np.testing.assert_allclose(
      rotate(x, 90.0 * quarters),
      np.rot90(x, quarters, axes=(1, 2)),
      atol=1e-3,
    )


def test_rotate_equals_scipy():
  x = images(shape=(1, 9, 6, 1))
  expected = scipy.ndimage.rotate(
    np.asarray(x[0, :, :, 0]), 25, order=1, reshape=False, mode="grid-constant"
  )
  np.testing.assert_allclose(rotate(x, 25.0)[0, :, :, 0], expected, atol=1e-3)


def test_rotate_takes_an_angle_for_each_image():
  x = images()
  angles = jnp.array([0.0, 90.0, 45.0])
  each = [rotate(x[i : i + 1], angles[i]) for i in range(3)]
  np.testing.assert_allclose(
    rotate(x, angles), jnp.concatenate(each), atol=1e-3
  )


def test_invert_is_its_own_inverse():
  x = images(jnp.uint8)
  np.testing.assert_array_equal(invert(x), 255 - np.asarray(x))
  np.testing.assert_array_equal(invert(invert(x)), x)
  unit = images() / 255
  np.testing.assert_allclose(invert(unit, maximum=1), 1 - unit, atol=1e-6)


def test_blend_noise_goes_from_images_to_noise():
  x = images(shape=(4, 16, 16, 1))
  np.testing.assert_array_equal(blend_noise(KEY, x, strength=0.0), x)
  noise = blend_noise(KEY, x, strength=1.0)
  assert 0 <= noise.min() < 5
  assert 250 < noise.max() <= 255
  np.testing.assert_allclose(
    blend_noise(KEY, x, strength=0.25), 0.75 * x + 0.25 * noise, atol=1e-3
  )
  assert (blend_noise(jax.random.key(1), x, strength=1.0) != noise).any()
  with pytest.raises(ValueError, match=r"strength is 1\.5"):
    blend_noise(KEY, x, strength=1.5)


def test_resize_keeps_constant_images_and_the_mean():
  x = images(shape=(2, 16, 16, 3))
  np.testing.assert_allclose(resize(x, (16, 16)), x, atol=1e-3)
  flat = resize(jnp.full((1, 28, 28, 1), 9, jnp.uint8), (8, 8), crop=4)
  assert (flat == 9).all()
  # Averaging, not picking: noise loses most of its deviation.
  assert resize(x, (2, 2)).std() < 0.3 * x.std()


def test_resize_crops_first():
  x = images()
  np.testing.assert_allclose(
    resize(x, (4, 4), crop=2), x[:, 2:-2, 2:-2], atol=1e-3
  )
  with pytest.raises(ValueError, match="crop is 4"):
    resize(x, (4, 4), crop=4)
