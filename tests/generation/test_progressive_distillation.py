"""One step of the student goes where two steps of the teacher go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import generation
from tests.generation.test_diffusion import gaussian_denoiser

RNG = np.random.default_rng(1)
Z = RNG.normal(size=(4, 3))
STEP = np.arange(4)


def levels(step):
  with jax.enable_x64(True):
    return generation.cosine_log_snr(np.asarray(step, float) / 4)


def teacher_steps():
  z = Z
  for start in (STEP + 1.0, STEP + 0.5):
    now, after = levels(start), levels(start - 0.5)
    x = gaussian_denoiser(z, now)
    z = generation.ddim_step(x, z, now, after)
  return x, z


def test_the_target_is_the_end_of_two_steps():
  with jax.enable_x64(True):
    target = generation.progressive_distillation_target(
      gaussian_denoiser, Z, STEP, num_steps=4
    )
    last, end = teacher_steps()
    moved = generation.ddim_step(target, Z, levels(STEP + 1), levels(STEP))
  # The step to time 0 has the teacher's own data for its target.
  np.testing.assert_allclose(moved[1:], end[1:], rtol=1e-9)
  np.testing.assert_allclose(target[0], last[0], rtol=1e-12)
  assert np.abs(target[0] - moved[0]).max() < 1e-3


def test_the_target_is_that_of_the_code_in_float64():
  """Of dpm.py, training_losses, written anew."""

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  u = (STEP + 1) / 4
  t, mid, s = (
    np.asarray(levels(4 * x))[:, None] for x in (u, u - 0.125, u - 0.25)
  )
  a, d = {}, {}
  for name, level in (("t", t), ("mid", mid), ("s", s)):
    a[name], d[name] = np.sqrt(sigmoid(level)), np.sqrt(sigmoid(-level))
  x = np.asarray(gaussian_denoiser(Z, t[:, 0]))
  z_mid = a["mid"] * x + d["mid"] * (Z - a["t"] * x) / d["t"]
  x = np.asarray(gaussian_denoiser(z_mid, mid[:, 0]))
  z_end = a["s"] * x + d["s"] * (z_mid - a["mid"] * x) / d["mid"]
  share = np.exp(0.5 * (np.logaddexp(0, t) - np.logaddexp(0, s)))
  expected = (z_end - share * Z) / (a["s"] - share * a["t"])
  expected = np.where(STEP[:, None] == 0, x, expected)
  target = jax.jit(
    lambda z: generation.progressive_distillation_target(
      gaussian_denoiser, z, STEP, num_steps=4
    )
  )(Z.astype(np.float32))
  np.testing.assert_allclose(target, expected, rtol=2e-4, atol=1e-5)


def test_the_target_has_no_gradient_and_is_checked():
  gradient = jax.grad(
    lambda z: jnp.sum(
      generation.progressive_distillation_target(
        gaussian_denoiser, z, STEP, num_steps=4
      )
    )
  )(Z.astype(np.float32))
  np.testing.assert_array_equal(gradient, 0)
  with pytest.raises(ValueError, match="num_steps is 0"):
    generation.progressive_distillation_target(
      gaussian_denoiser, Z, STEP, num_steps=0
    )
