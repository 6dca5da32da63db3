"""MMD against NumPy in float64, and its estimators' properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import mmd


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
  with jax.enable_x64(True):
    value = mmd(source, target, estimator=estimator, **widths)
    np.testing.assert_allclose(value, expected, rtol=1e-11)
  single = mmd(
    jnp.float32(source + 50.0),
    jnp.float32(target + 50.0),
    estimator=estimator,
    **widths,
  )
  np.testing.assert_allclose(single, expected, atol=2e-5)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_gradients(estimator):
  with jax.enable_x64(True):
    check_grads(
      lambda s, t: mmd(s, t, estimator=estimator, gammas=[0.1, 1.0]),
      tuple(map(jnp.asarray, samples(4, 4, 2))),
      order=1,
      modes=("fwd", "rev"),
    )


def test_no_gradient_through_the_bandwidth():
  source, target = map(jnp.float32, samples())
  pooled = jnp.concatenate([source, target])
  mean = np.mean(squared_distances(np.array(pooled), np.array(pooled)))
  for argument in (0, 1):
    adaptive = jax.grad(mmd, argument)(source, target, bandwidth_factors=0.5)
    fixed = jax.grad(mmd, argument)(source, target, gammas=1.0 / mean)
    np.testing.assert_allclose(adaptive, fixed, atol=1e-6)


def test_default_is_five_factors():
  source, target = map(jnp.float32, samples())
  np.testing.assert_allclose(
    mmd(source, target),
    mmd(source, target, bandwidth_factors=2.0 ** jnp.arange(-3, 2)),
    rtol=1e-6,
  )


def test_equal_samples_and_permutations():
  source, target = map(jnp.float32, samples(6, 5))
  assert abs(mmd(source, source)) < 1e-6
  assert abs(mmd(source, source[::-1])) < 1e-6
  assert mmd(source, source, estimator="unbiased") < 0
  np.testing.assert_allclose(
    mmd(source[::-1], target[::-1]), mmd(source, target), rtol=1e-5
  )
  np.testing.assert_allclose(
    mmd(target, source), mmd(source, target), rtol=1e-5
  )
  same = jnp.ones((3, 2))
  value, gradient = jax.value_and_grad(mmd)(same, same)
  assert value == 0
  assert not np.any(gradient)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_a_mask_equals_a_slice(estimator):
  source, target = map(jnp.float32, samples(7, 7))
  where_source = jnp.array([1, 0, 1, 1, 0, 1, 1], bool)
  where_target = jnp.array([0, 1, 1, 1, 1, 0, 1], bool)
  spoiled = jnp.where(where_source[:, None], source, jnp.nan)

  def masked(s, t):
    return mmd(
      s,
      t,
      estimator=estimator,
      where_source=where_source,
      where_target=where_target,
    )

  def sliced(s, t):
    return mmd(s[where_source], t[where_target], estimator=estimator)

  value, gradients = jax.value_and_grad(masked, (0, 1))(spoiled, target)
  expected, wanted = jax.value_and_grad(sliced, (0, 1))(source, target)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for gradient, want in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(gradient, want, atol=1e-6)


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_an_empty_domain_gives_zero(estimator):
  source, target = map(jnp.float32, samples(4, 4))
  value, gradient = jax.value_and_grad(mmd, (0, 1))(
    source, target, estimator=estimator, where_target=jnp.zeros(4, bool)
  )
  assert value == 0
  assert not np.any(gradient)
  alone = mmd(source[:1], target[:1], estimator=estimator)
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
  with pytest.raises(ValueError, match="gammas is -1"):
    mmd(source, target, gammas=[1.0, -1.0])
  with pytest.raises(ValueError, match="estimator is 'v'"):
    mmd(source, target, estimator="v")
  with pytest.raises(ValueError, match=r"target has shape \(3, 2\)"):
    mmd(source, target[:, :2])
