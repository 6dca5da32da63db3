"""MMD against NumPy in float64, and its estimators' properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import mmd

MMD = jax.jit(mmd, static_argnames="estimator")


def both_gradients(function):
  return jax.jit(jax.value_and_grad(function, (0, 1)))


def samples(n_source=7, n_target=7, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, rng.normal(size=(n_target, dims)) + 0.7


def squared_distances(a, b):
  return np.sum((a[:, None] - b[None]) ** 2, -1)


def oracle(source, target, estimator, gammas):
  def kernel(a, b):
    return sum(np.exp(-g * squared_distances(a, b)) for g in gammas)

  n, m = len(source), len(target)
  ss, tt, st = (
    kernel(a, b)
    for a, b in ((source, source), (target, target), (source, target))
  )
  if estimator == "biased":
    return ss.mean() + tt.mean() - 2 * st.mean()
  if estimator == "unbiased":
    ss, tt = ss[~np.eye(n, dtype=bool)], tt[~np.eye(m, dtype=bool)]
    return ss.sum() / (n * n - n) + tt.sum() / (m * m - m) - 2 * st.mean()
  i, j = np.arange(n), np.roll(np.arange(n), -1)
  return np.mean(ss[i, j] + tt[i, j] - st[i, j] - st[j, i])


WIDTHS = {
  "bandwidth_factors": [0.5, 2.0],
  "bandwidths": [0.8, 3.0],
  "gammas": [0.1, 2.0],
}


def gammas_of(kind, source, target):
  values = np.array(WIDTHS[kind])
  if kind == "gammas":
    return values
  if kind == "bandwidths":
    return 1 / (2 * values**2)
  pooled = np.concatenate([source, target])
  return 1 / (2 * values * squared_distances(pooled, pooled).mean())


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_equals_numpy(estimator, kind):
  source, target = samples(7, 7 if estimator == "linear" else 5)
  expected = oracle(source, target, estimator, gammas_of(kind, source, target))
  widths = {kind: WIDTHS[kind]}
  run = jax.jit(functools.partial(mmd, estimator=estimator, **widths))
  with jax.enable_x64(True):
    np.testing.assert_allclose(run(source, target), expected, rtol=1e-11)
  single = run(jnp.float32(source + 50.0), jnp.float32(target + 50.0))
  np.testing.assert_allclose(single, expected, atol=2e-5)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_gradients(estimator):
  with jax.enable_x64(True):
    check_grads(
      jax.jit(functools.partial(mmd, estimator=estimator, gammas=[0.1, 1.0])),
      tuple(map(jnp.asarray, samples(4, 4, 2))),
      order=1,
      modes=("fwd", "rev"),
    )


def test_no_gradient_through_the_bandwidth():
  source, target = map(jnp.float32, samples())
  pooled = jnp.concatenate([source, target])
  mean = np.mean(squared_distances(np.array(pooled), np.array(pooled)))
  gradients = jax.jit(jax.grad(mmd, (0, 1)))
  adaptive = gradients(source, target, bandwidth_factors=0.5)
  fixed = gradients(source, target, gammas=1.0 / mean)
  for a, b in zip(adaptive, fixed, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_default_is_five_factors():
  source, target = map(jnp.float32, samples())
  np.testing.assert_allclose(
    MMD(source, target),
    MMD(source, target, bandwidth_factors=2.0 ** jnp.arange(-3, 2)),
    rtol=1e-6,
  )


def test_equal_samples_and_permutations():
  source, target = map(jnp.float32, samples(5, 5))
  assert abs(MMD(source, source)) < 5e-6
  assert abs(MMD(source, source[::-1])) < 5e-6
  assert MMD(source, source, estimator="unbiased") < 0
  np.testing.assert_allclose(
    MMD(source[::-1], target[::-1]), MMD(source, target), rtol=1e-5
  )
  np.testing.assert_allclose(
    MMD(target, source), MMD(source, target), rtol=1e-5
  )
  same = jnp.ones((5, 3))
  value, gradient = jax.value_and_grad(MMD)(same, same)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_a_mask_equals_a_slice(estimator):
  source, target = map(jnp.float32, samples(7, 7))
  where_source = jnp.array([1, 0, 1, 1, 0, 1, 1], bool)
  where_target = jnp.array([0, 1, 1, 1, 1, 0, 1], bool)
  spoiled = jnp.where(where_source[:, None], source, jnp.nan)

  form = functools.partial(mmd, estimator=estimator)
  masked = functools.partial(
    form, where_source=where_source, where_target=where_target
  )
  kept = np.flatnonzero(where_source), np.flatnonzero(where_target)

  def sliced(s, t):
    return form(s[kept[0]], t[kept[1]])

  value, gradients = both_gradients(masked)(spoiled, target)
  expected, wanted = both_gradients(sliced)(source, target)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for gradient, want in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(gradient, want, atol=1e-6)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_an_empty_domain_gives_zero(estimator):
  source, target = map(jnp.float32, samples(4, 4))
  form = jax.jit(functools.partial(mmd, estimator=estimator))
  empty = functools.partial(form, where_target=jnp.zeros(4, bool))
  value, gradients = both_gradients(empty)(source, target)
  assert value == 0
  assert not np.any(gradients)
  alone = form(source[:1], target[:1])
  assert np.isfinite(alone)


def test_half_precision_is_computed_in_float32():
  source, target = (jnp.asarray(x, jnp.bfloat16) for x in samples())
  value = mmd(source, target)
  assert value.dtype == jnp.float32
  wide = mmd(source.astype(jnp.float32), target.astype(jnp.float32))
  np.testing.assert_allclose(value, wide, rtol=1e-6)


def test_one_program_for_all_widths():
  source, target = map(jnp.float32, samples())
  traces = []

  @jax.jit
  def run(gammas):
    traces.append(None)
    return mmd(source, target, gammas=gammas)

  for gammas in ([0.1, 1.0], [0.3, 2.0]):
    np.testing.assert_allclose(
      run(jnp.array(gammas)), mmd(source, target, gammas=gammas), rtol=1e-5
    )
  assert len(traces) == 1


def test_errors_name_the_argument():
  source, target = map(jnp.float32, samples(4, 3))
  with pytest.raises(ValueError, match=r"target has 3 rows; .* source has, 4"):
    mmd(source, target, estimator="linear")
  with pytest.raises(ValueError, match="bandwidths and gammas; expected one"):
    mmd(source, target, bandwidths=1.0, gammas=1.0)
  with pytest.raises(ValueError, match=r"gammas is \[1.0, -1.0\]; expected"):
    mmd(source, target, gammas=[1.0, -1.0])
  with pytest.raises(ValueError, match="estimator is 'v'"):
    mmd(source, target, estimator="v")
  with pytest.raises(ValueError, match=r"target has shape \(3, 2\)"):
    mmd(source, target[:, :2])
