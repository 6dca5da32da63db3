"""Consistency: Gaussian data, whose consistency function is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import generation

RNG = np.random.default_rng(2)
MEAN, STD, SMALLEST = 0.7, 0.5, 0.01
NOISE = RNG.normal(size=(6, 3))


def teacher(x, sigma):
  """The best denoiser of N(MEAN, STD^2) with noise of sigma added."""
  return MEAN + STD**2 / (STD**2 + sigma[:, None] ** 2) * (x - MEAN)


def consistency(x, sigma):
  """The end, at SMALLEST, of the path through x, in closed form."""
  scale = (STD**2 + SMALLEST**2) / (STD**2 + sigma[:, None] ** 2)
  return MEAN + jnp.sqrt(scale) * (x - MEAN)


def test_levels_are_those_of_the_code():
  i = np.arange(18)
  start, end = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      generation.karras_noise_levels(18),
      (start + i / 17 * (end - start)) ** 7,
      rtol=1e-9,
    )
  with pytest.raises(ValueError, match="num_levels is 1"):
    generation.karras_noise_levels(1)
  with pytest.raises(ValueError, match="smallest is 0"):
    generation.karras_noise_levels(3, smallest=0.0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_true_function_is_consistent_in_the_order_of_the_solver(
  solver, order
):
  """The error of a step falls with one order more than the solver's."""

  def error(count):
    sigmas = generation.karras_noise_levels(
      count, smallest=SMALLEST, largest=5.0
    )
    index = np.linspace(0, count - 2, 6).astype(int)
    now, after = sigmas[index], sigmas[index + 1]
    x = MEAN + np.sqrt(STD**2 + now[:, None] ** 2) * NOISE
    target = generation.consistency_target(
      teacher, consistency, x, now, after, solver=solver
    )
    loss = generation.consistency_loss(
      consistency(x, now), target, now, norm="l1"
    )
    return float(loss.max())

  with jax.enable_x64(True):
    ratio = error(200) / error(400)
  assert abs(np.log2(ratio) - order - 1) < 0.3, ratio


def test_the_output_is_the_code_and_a_v_prediction_at_deviation_one():
  x, output = RNG.normal(size=(2, 4, 3))
  t = np.array([0.002, 0.5, 2.0, 80.0])[:, None]
  expected = x * 0.25 / ((t - 0.002) ** 2 + 0.25) + output * (
    t - 0.002
  ) * 0.5 / np.sqrt(t**2 + 0.25)
  with jax.enable_x64(True):
    found = generation.consistency_output(output, x, t[:, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_array_equal(found[0], x[0])
    denoiser = generation.consistency_output(
      -output, x, t[:, 0], data_std=1.0, smallest=0.0
    )
    z = x / np.sqrt(1 + t**2)
    said = generation.denoised(output, z, -2 * np.log(t[:, 0]))
  np.testing.assert_allclose(denoiser, said, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
  ("weighting", "weight"),
  [
    ("uniform", lambda s: 1 + 0 * s),
    ("snr", lambda s: s**-2),
    ("snr_plus_one", lambda s: s**-2 + 1),
    ("snr_truncated", lambda s: np.maximum(s**-2, 1)),
  ],
)
def test_weights_and_norms(weighting, weight):
  a, b = RNG.normal(size=(2, 3, 4))
  sigma = np.array([0.1, 1.0, 3.0])
  with jax.enable_x64(True):
    for norm, gap in (("l1", np.abs(a - b)), ("l2", np.square(a - b))):
      loss = generation.consistency_loss(
        a, b, sigma, norm=norm, weighting=weighting
      )
      np.testing.assert_allclose(loss, weight(sigma) * gap.mean(1))


def test_samples_of_one_step_and_more():
  noise = RNG.normal(size=(4000, 1)).astype(np.float32)
  for sigmas in ([20.0], [20.0, 1.0, 0.3]):
    x = generation.consistency_sample(
      jax.random.key(0),
      consistency,
      noise,
      np.array(sigmas, np.float32),
      smallest=SMALLEST,
    )
    np.testing.assert_allclose([x.mean(), x.std()], [MEAN, STD], atol=0.04)
  with pytest.raises(ValueError, match=r"sigmas has shape \(0,\)"):
    generation.consistency_sample(
      jax.random.key(0), consistency, noise, np.zeros(0, np.float32)
    )
