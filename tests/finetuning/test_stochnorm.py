"""StochNorm: its two branches, its moving statistics, devices and masks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.finetuning import stochnorm
from tests.laws import trace

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MAPS = 2 * RNG.normal(size=(16, 3, 2, 6)) + 1
MEAN, SCALE, BIAS = RNG.normal(size=(3, 6))
VARIANCE = RNG.uniform(0.5, 2, 6)
STATISTICS = MEAN, VARIANCE, SCALE, BIAS
SINGLE = [np.float32(x) for x in STATISTICS]
RUN = jax.jit(stochnorm)
WHERE = np.arange(16) % 5 != 0


def oracle(x, own, momentum, eps):
  axes = tuple(range(x.ndim - 1))
  mean, variance = x.mean(axes), x.var(axes)
  center = np.where(own, mean, MEAN)
  spread = np.where(own, variance, VARIANCE)
  n = x.size // x.shape[-1]
  return (
    SCALE * (x - center) / np.sqrt(spread + eps) + BIAS,
    (1 - momentum) * MEAN + momentum * mean,
    (1 - momentum) * VARIANCE + momentum * variance * n / (n - 1),
  )


@pytest.mark.parametrize("shape", [(16, 3, 2, 6), (96, 6), (8, 12, 6)])
def test_equals_numpy(shape):
  x = MAPS.reshape(shape)
  with jax.enable_x64(True):
    out = jax.jit(stochnorm)(
      KEY, x, *STATISTICS, probability=0.4, momentum=0.3, epsilon=1e-3
    )
    own = np.asarray(jax.random.bernoulli(KEY, 0.4, (6,)))
    assert 0 < own.sum() < 6
    for a, b in zip(out, oracle(x, own, 0.3, 1e-3), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-12)


def test_limits():
  """Batch normalization at 1, moving statistics at 0 and in evaluation."""
  run = functools.partial(RUN, KEY, np.float32(MAPS), *SINGLE)
  batch = jax.device_get(run(probability=1.0))
  expected = oracle(MAPS, np.ones(6, bool), 0.1, 1e-5)
  for a, b in zip(batch, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  moving = run(probability=0.0)
  evaluation = RUN(None, np.float32(MAPS), *SINGLE)
  np.testing.assert_allclose(moving.outputs, evaluation.outputs)
  np.testing.assert_allclose(moving.mean, batch.mean)
  np.testing.assert_array_equal(evaluation.mean, SINGLE[0])
  np.testing.assert_array_equal(evaluation.variance, SINGLE[1])
  plain = RUN(KEY, np.float32(MAPS), *SINGLE[:2])
  full = run()
  np.testing.assert_allclose(
    np.asarray(plain.outputs) * SCALE + BIAS, full.outputs, atol=1e-5
  )


def objective(x, where, scale, axis_name=None):
  out = stochnorm(
    KEY, x, *SINGLE[:2], scale, SINGLE[3], where=where, axis_name=axis_name
  )
  total = jnp.sum(jnp.square(out.outputs)), out.mean, out.variance
  return total if axis_name is None else jax.lax.pmean(total, axis_name)


@pytest.mark.slow
def test_devices_and_masks():
  """Eight devices give one's, and a mask what a slice gives."""
  x = np.float32(MAPS)
  spoiled = np.where(WHERE[:, None, None, None], x, np.nan)

  def step(x, where, scale, axis_name=None):
    def loss(scale):
      value, *moving = objective(x, where, scale, axis_name)
      return value, moving

    return jax.value_and_grad(loss, has_aux=True)(scale)

  (value, moving), gradient = jax.jit(step)(x[WHERE], None, SINGLE[2])
  masked = jax.jit(step)(spoiled, WHERE, SINGLE[2])
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.jit(
    jax.shard_map(
      functools.partial(step, axis_name="batch"),
      mesh=mesh,
      in_specs=(P("batch"), P("batch"), P()),
      out_specs=P(),
    )
  )(spoiled, WHERE, SINGLE[2])
  for result, scaling in ((masked, 1), (sharded, 8)):
    (other, other_moving), other_gradient = result
    np.testing.assert_allclose(scaling * other, value, rtol=1e-5)
    np.testing.assert_allclose(scaling * other_gradient, gradient, rtol=1e-4)
    for a, b in zip(other_moving, moving, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5)


def test_gradients():
  """Through the batch's statistics, not through the moving ones."""
  x = np.float32(MAPS)

  def loss(x, mean, variance):
    out = stochnorm(KEY, x, mean, variance, *SINGLE[2:])
    # A nonlinear function: a normalized batch has constant moments.
    return jnp.sum(jnp.tanh(out.outputs)) + jnp.sum(out.mean + out.variance)

  gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, *SINGLE[:2])
  step = 1e-6 * RNG.normal(size=x.shape)
  own = np.asarray(jax.random.bernoulli(KEY, np.float32(0.5), (6,)))
  ahead, behind = (
    np.tanh(oracle(MAPS + s, own, 0.1, 1e-5)[0]).sum() for s in (step, -step)
  )
  np.testing.assert_allclose(
    np.sum(gradients[0] * step), (ahead - behind) / 2, rtol=1e-3
  )


def test_extremes():
  run = jax.jit(jax.value_and_grad(lambda x: objective(x, None, SINGLE[2])[0]))
  for shape, number in (((4, 6), 0), ((4, 6), 1e4), ((1, 6), 1)):
    value, gradient = run(np.full(shape, number, np.float32))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
  nothing = RUN(
    KEY,
    np.full((2, 6), np.nan, np.float32),
    *SINGLE,
    where=np.zeros(2, bool),
  )
  np.testing.assert_array_equal(nothing.outputs, 0)
  np.testing.assert_array_equal(nothing.mean, SINGLE[0])


def test_half_precision_and_no_recompilation():
  x = MAPS.astype(jnp.bfloat16)
  half = RUN(KEY, x, *SINGLE)
  wide = RUN(KEY, x.astype(np.float32), *SINGLE)
  assert half.outputs.dtype == jnp.bfloat16
  assert half.mean.dtype == jnp.float32
  np.testing.assert_allclose(np.float32(half.outputs), wide.outputs, rtol=1e-2)
  run = jax.jit(
    chex.assert_max_traces(
      lambda *args, **options: stochnorm(KEY, *args, **options), n=1
    )
  )
  for probability, momentum in ((0.5, 0.1), (0.25, 0.2)):
    run(x, *SINGLE, probability=probability, momentum=momentum)


def test_errors_name_the_argument():
  x, one = np.ones((2, 6), np.float32), np.ones(6, np.float32)
  with pytest.raises(ValueError, match=r"variance has shape \(5,\)"):
    stochnorm(KEY, x, one, one[:5])
  with pytest.raises(ValueError, match=r"probability is 2.0; expected"):
    stochnorm(KEY, x, one, one, probability=2.0)
  with pytest.raises(ValueError, match=r"epsilon is 0.0; expected"):
    trace(stochnorm, KEY, x, one, one, epsilon=0.0)
