"""DIFEX's terms and the Fourier phase against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import coral, difex_loss, fourier_phase
from tests.laws import trace

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(3, 8, 6))
TEACHER = RNG.normal(size=(3, 8, 3))
FORMS = ("2-norm", "norm-2-norm", "norm-1-norm", "cos")
WEIGHTS = (0.3, 0.7, 1.3)
CORAL = jax.jit(coral)
PHASE = jax.jit(fourier_phase)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def exploration(rows, form):
  a, b = rows[:, :3], rows[:, 3:]
  if form == "cos":
    return np.mean(np.sum(unit(a) * unit(b), -1))
  if form != "2-norm":
    a, b = unit(a), unit(b)
  gaps = np.abs(a - b) if form == "norm-1-norm" else (a - b) ** 2
  return -np.mean(gaps)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_equals_numpy_and_bears_extremes(form):
  where = np.arange(8)[None] < np.array([[8], [6], [7]])

  def total(features, teacher, where):
    terms = difex_loss(features, teacher, form=form, where=where)
    weighed = sum(w * t for w, t in zip(WEIGHTS, terms, strict=True))
    return weighed, terms

  program = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
  with jax.enable_x64(True):
    spoiled = np.where(where[..., None], FEATURES, np.nan)
    (_, terms), (gradient, by_teacher) = program(spoiled, TEACHER, where)
    aligned = CORAL(FEATURES[..., 3:], where=where)
  rows, teacher = FEATURES[where], TEACHER[where]
  expected = (
    np.mean((rows[:, :3] - teacher) ** 2),
    exploration(rows, form),
    aligned,
  )
  np.testing.assert_allclose(terms, expected, rtol=1e-10)
  gradient = np.asarray(gradient)
  np.testing.assert_array_equal(gradient[~where], 0)
  assert not np.any(by_teacher)
  single = np.float32(FEATURES), np.float32(TEACHER)
  for stretch, mask in ((0.0, where), (1e4, where), (1.0, 0 * where > 0)):
    (value, _), (gradient, _) = program(
      np.float32(stretch) * single[0], single[1], mask
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    if not mask.any():
      assert value == 0
      assert not np.any(gradient)


@pytest.mark.slow
def test_devices_agree():
  features, teacher = np.float32(FEATURES), np.float32(TEACHER)
  where = np.arange(8)[None] < np.array([[8], [6], [7]])

  def step(scale, features, teacher, where, axis_name="batch"):
    def loss(scale):
      return sum(
        difex_loss(scale * features, teacher, where=where, axis_name=axis_name)
      )

    value, gradient = jax.value_and_grad(loss)(scale)
    if axis_name:
      gradient = jax.lax.pmean(gradient, axis_name)
    return value, gradient

  scale = np.float32(1.1)
  single = jax.jit(step, static_argnames="axis_name")
  expected = single(scale, features, teacher, where, axis_name=None)
  shards = [
    np.moveaxis(x.reshape(3, 4, 2, *x.shape[2:]), 1, 0)
    for x in (features, teacher, where)
  ]
  mapped = jax.jit(jax.vmap(step, (None, 0, 0, 0), axis_name="batch"))
  for got, want in zip(mapped(scale, *shards), expected, strict=True):
    np.testing.assert_allclose(got, np.full(4, want), rtol=1e-4)


def test_phase_is_that_of_numpy_and_ignores_the_amplitude():
  images = RNG.normal(size=(2, 5, 6, 3))
  expected = np.angle(np.fft.fft2(images, axes=(1, 2)))
  with jax.enable_x64(True):
    phase = np.asarray(PHASE(images))
  np.testing.assert_allclose(np.exp(1j * phase), np.exp(1j * expected))
  again = np.asarray(PHASE(np.float32(3 * images)))
  np.testing.assert_allclose(
    np.exp(1j * again), np.exp(1j * expected), atol=1e-4
  )
  value, gradient = jax.jit(
    jax.value_and_grad(lambda x: jnp.sum(fourier_phase(x)))
  )(np.zeros((4, 4, 1), np.float32))
  assert value == 0
  assert not np.any(gradient)
  half = trace(fourier_phase, np.ones((2, 2, 1), jnp.bfloat16))
  assert half.dtype == jnp.float32


def test_errors():
  features, teacher = np.float32(FEATURES), np.float32(TEACHER)
  with pytest.raises(ValueError, match="features has width 5; expected 6"):
    difex_loss(features[..., :5], teacher)
  with pytest.raises(ValueError, match="form is '1-norm'"):
    difex_loss(features, teacher, form="1-norm")
