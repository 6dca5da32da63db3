"""Diffusion: the code's formulas in float64, and Gaussian data in closed form.

Of data N(m, s^2) the best denoiser is linear, and the path of the deterministic
sampler has a closed form: z - alpha m is scaled by the deviation of z.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import generation

RNG = np.random.default_rng(0)
X, NOISE = RNG.normal(size=(2, 5, 3))
LEVELS = np.array([-6.0, -1.0, 0.0, 2.0, 8.0])
MEAN, STD = 0.7, 0.5


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def factors(level):
  return np.sqrt(sigmoid(level))[:, None], np.sqrt(sigmoid(-level))[:, None]


def gaussian_denoiser(z, level):
  """The conditional mean of data N(MEAN, STD^2), given z."""
  signal = jnp.sqrt(jax.nn.sigmoid(level))[:, None]
  variance = jax.nn.sigmoid(-level)[:, None]
  gain = signal * STD**2 / (signal**2 * STD**2 + variance)
  return MEAN + gain * (z - signal * MEAN)


def gaussian_path(z, level, after):
  """The point of the path through z at another level, exactly."""
  (a, s), (b, t) = factors(level), factors(after)
  scale = np.sqrt((b**2 * STD**2 + t**2) / (a**2 * STD**2 + s**2))
  return b * MEAN + scale * (z - a * MEAN)


def test_the_schedule_is_the_cosine_of_the_code():
  u = np.linspace(0, 1, 7)
  b = np.arctan(np.exp(-10.0))
  a = np.arctan(np.exp(10.0)) - b
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      generation.cosine_log_snr(u), -2 * np.log(np.tan(a * u + b)), rtol=1e-9
    )
  with pytest.raises(ValueError, match="expected low below high"):
    generation.cosine_log_snr(0.5, low=3.0, high=2.0)


def test_predictions_say_the_same_data():
  a, s = factors(LEVELS)
  z = a * X + s * NOISE
  outputs = {"x": X, "noise": NOISE, "v": a * NOISE - s * X}
  with jax.enable_x64(True):
    np.testing.assert_allclose(generation.diffuse(X, NOISE, LEVELS), z)
    for kind, output in outputs.items():
      x = generation.denoised(output, z, LEVELS, prediction=kind)
      np.testing.assert_allclose(x, X, atol=1e-12)


@pytest.mark.parametrize("weighting", ["snr_truncated", "snr", "constant", "v"])
def test_weights_are_errors_of_other_predictions(weighting):
  a, s = factors(LEVELS)
  z = a * X + s * NOISE
  guess = X + RNG.normal(size=X.shape)
  noise = (z - a * guess) / s
  errors = {
    "constant": np.square(guess - X).mean(1),
    "snr": np.square(noise - NOISE).mean(1),
    "v": np.square(a * noise - s * guess - a * NOISE + s * X).mean(1),
  }
  errors["snr_truncated"] = np.maximum(errors["constant"], errors["snr"])
  with jax.enable_x64(True):
    loss = generation.diffusion_loss(guess, X, LEVELS, weighting=weighting)
  np.testing.assert_allclose(loss, errors[weighting], rtol=1e-9)
  if weighting == "v":
    with pytest.raises(ValueError, match="weighting is 'l2'; expected one of"):
      generation.diffusion_loss(X, X, LEVELS, weighting="l2")


def test_a_step_with_the_true_noise_stays_on_the_line():
  after = LEVELS + 1.5
  (a, s), (b, t) = factors(LEVELS), factors(after)
  with jax.enable_x64(True):
    moved = generation.ddim_step(X, a * X + s * NOISE, LEVELS, after)
  np.testing.assert_allclose(moved, b * X + t * NOISE, atol=1e-9)


def test_samples_of_gaussian_data_converge_with_the_first_order():
  with jax.enable_x64(True):
    exact = gaussian_path(NOISE, np.full(5, -20.0), np.full(5, 20.0))
    errors = [
      np.abs(
        generation.ddim_sample(gaussian_denoiser, NOISE, num_steps=n) - exact
      ).max()
      for n in (64, 128, 256)
    ]
  assert errors[2] < 0.02
  ratios = np.array(errors[:-1]) / errors[1:]
  assert (np.abs(ratios - 2) < 0.2).all(), ratios


def test_many_tiny_errors():
  with pytest.raises(ValueError, match="num_steps is 0"):
    generation.ddim_sample(gaussian_denoiser, NOISE, num_steps=0)
  with pytest.raises(ValueError, match="prediction is 'y'; expected one of"):
    generation.denoised(X, X, LEVELS, prediction="y")
