"""MMD against NumPy in float64, and its estimators' properties."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import mmd
from tests.laws import computed_in_float32, slopes_agree, trace

ESTIMATORS = ["biased", "unbiased", "linear"]


@jax.jit
def masked(source, target, where_source, where_target):
  """The value and both gradients of each estimator."""
  return {
    estimator: jax.value_and_grad(mmd, (0, 1))(
      source,
      target,
      estimator=estimator,
      where_source=where_source,
      where_target=where_target,
    )
    for estimator in ESTIMATORS
  }


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


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equals_numpy(estimator):
  source, target = samples(7, 7 if estimator == "linear" else 5)

  @jax.jit
  def run(source, target):
    return {
      kind: mmd(source, target, estimator=estimator, **{kind: widths})
      for kind, widths in WIDTHS.items()
    }

  with jax.enable_x64(True):
    values = run(source, target)
  singles = run(np.float32(source + 50.0), np.float32(target + 50.0))
  for kind in WIDTHS:
    gammas = gammas_of(kind, source, target)
    expected = oracle(source, target, estimator, gammas)
    np.testing.assert_allclose(values[kind], expected, 1e-11, err_msg=kind)
    np.testing.assert_allclose(singles[kind], expected, atol=2e-5, err_msg=kind)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients(estimator):
  form = functools.partial(mmd, estimator=estimator, gammas=[0.1, 1.0])
  slopes_agree(form, samples(4, 4, 2, seed=1))


def test_no_gradient_through_the_bandwidth():
  source, target = map(np.float32, samples())
  pooled = np.concatenate([source, target])
  mean = np.mean(squared_distances(pooled, pooled))

  @jax.jit
  def run(source, target):
    gradients = jax.grad(mmd, (0, 1))
    return (
      gradients(source, target, bandwidth_factors=0.5),
      gradients(source, target, gammas=1.0 / mean),
    )

  for a, b in zip(*run(source, target), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_default_is_five_factors():
  @jax.jit
  def run(source, target):
    factors = 2.0 ** np.arange(-3, 2)
    return mmd(source, target), mmd(source, target, bandwidth_factors=factors)

  value, expected = run(*map(np.float32, samples()))
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_equal_samples_and_permutations():
  source, target = map(np.float32, samples(5, 5))

  @jax.jit
  def run(source, target):
    return (
      *jax.value_and_grad(mmd)(source, target),
      mmd(source, target, estimator="unbiased"),
    )

  value, _, _ = run(source, target)
  itself, _, unbiased = run(source, source)
  assert abs(itself) < 5e-6
  assert unbiased < 0
  assert abs(run(source, source[::-1])[0]) < 5e-6
  for pair in ((source[::-1], target[::-1]), (target, source)):
    np.testing.assert_allclose(run(*pair)[0], value, rtol=1e-5)
  same = np.ones((5, 3), np.float32)
  for leaf in run(same, same)[:2]:
    np.testing.assert_allclose(leaf, 0, atol=1e-6)


@pytest.mark.slow
def test_a_mask_equals_a_slice():
  source, target = map(np.float32, samples(7, 7))
  where_source = np.array([1, 0, 1, 1, 0, 1, 1], bool)
  where_target = np.array([0, 1, 1, 1, 1, 0, 1], bool)
  spoiled = np.where(where_source[:, None], source, np.nan)

  @jax.jit
  def sliced(source, target):
    return {
      estimator: jax.value_and_grad(
        functools.partial(mmd, estimator=estimator), (0, 1)
      )(source, target)
      for estimator in ESTIMATORS
    }

  results = masked(spoiled, target, where_source, where_target)
  expected = sliced(source[where_source], target[where_target])
  for name in ESTIMATORS:
    (value, gradients), (want, slopes) = results[name], expected[name]
    np.testing.assert_allclose(value, want, rtol=1e-5, err_msg=name)
    for gradient, slope, where in zip(
      gradients, slopes, (where_source, where_target), strict=True
    ):
      gradient = np.asarray(gradient)
      np.testing.assert_allclose(
        gradient[where], slope, atol=1e-6, err_msg=name
      )
      np.testing.assert_array_equal(gradient[~where], 0, err_msg=name)


@pytest.mark.slow
def test_an_empty_domain_gives_zero():
  source, target = map(np.float32, samples())
  results = masked(source, target, np.ones(7, bool), np.zeros(7, bool))
  for name, (value, gradients) in results.items():
    assert value == 0, name
    assert not np.any(gradients), name

  @jax.jit
  def alone(source, target):
    return [mmd(source, target, estimator=name) for name in ESTIMATORS]

  assert np.all(np.isfinite(alone(source[:1], target[:1])))


def test_half_precision_is_computed_in_float32():
  value = computed_in_float32(mmd, *map(np.float32, samples()))
  assert value.dtype == jnp.float32


def test_one_program_for_all_widths():
  source, target = map(np.float32, samples())
  run = jax.jit(
    chex.assert_max_traces(lambda g: mmd(source, target, gammas=g), 1)
  )
  for gammas in ([0.1, 1.0], [0.3, 2.0]):
    np.testing.assert_allclose(
      run(np.float32(gammas)),
      oracle(*samples(), "biased", gammas),
      rtol=1e-5,
    )


def test_errors_name_the_argument():
  source, target = map(np.float32, samples(4, 3))
  with pytest.raises(
    ValueError, match=r"target has 3 rows; .* expected 4, as in"
  ):
    trace(mmd, source, target, estimator="linear")
  with pytest.raises(ValueError, match="bandwidths and gammas; expected one"):
    trace(mmd, source, target, bandwidths=1.0, gammas=1.0)
  with pytest.raises(ValueError, match=r"gammas is \[1.0, -1.0\]; expected"):
    trace(mmd, source, target, gammas=[1.0, -1.0])
  with pytest.raises(ValueError, match="estimator is 'v'"):
    trace(mmd, source, target, estimator="v")
  with pytest.raises(ValueError, match=r"target has shape \(3, 2\)"):
    trace(mmd, source, target[:, :2])
