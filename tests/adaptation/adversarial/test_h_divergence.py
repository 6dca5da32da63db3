"""The H-divergence against closed forms, oracles and edge cases."""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import h_divergence
from tests.laws import computed_in_float32

DIVERGENCE = jax.jit(
  h_divergence, static_argnames=("folds", "num_permutations")
)


def gaussians(n_source, n_target, distance, *, dims=5, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims)).astype(np.float32)
  target = rng.normal(size=(n_target, dims)).astype(np.float32)
  # Along the diagonal: no single feature tells the domains apart alone.
  return source, target + np.float32(distance / np.sqrt(dims))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(10_000, 10_000), (2_000, 18_000)])
@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 4.0])
def test_gaussians_have_their_closed_form(distance, sizes):
  result = DIVERGENCE(*gaussians(*sizes, distance))
  error = statistics.NormalDist().cdf(-distance / 2)
  # Four standard errors, and the excess error of an estimated direction.
  spread = 2 * np.sqrt(error * (1 - error) * sum(1 / n for n in sizes))
  expected = 2 * (1 - 2 * error)
  assert result.value == pytest.approx(expected, abs=4 * spread + 0.005)
  if distance:
    assert result.source_error == pytest.approx(error, abs=0.05)
    assert result.target_error == pytest.approx(error, abs=0.05)


def numpy_oracle(source, target, folds):
  """The whole procedure for one dimension, without a probe."""
  wrong = np.zeros(2)
  fold_source = np.arange(len(source)) % folds
  fold_target = np.arange(len(target)) % folds
  for fold in range(folds):
    a = source[(fold_source != fold) | (folds == 1)]
    b = target[(fold_target != fold) | (folds == 1)]
    cuts = np.unique(np.concatenate([a, b]))
    middle = (cuts[1:] + cuts[:-1]) / 2
    gaps = np.array([np.mean(a <= m) - np.mean(b <= m) for m in middle])
    best = np.argmax(np.abs(gaps).round(6))
    source_above = gaps[best] < 0
    held_a, held_b = source[fold_source == fold], target[fold_target == fold]
    wrong[0] += np.sum((held_a > middle[best]) != source_above)
    wrong[1] += np.sum((held_b > middle[best]) == source_above)
  return wrong / [len(source), len(target)]


@pytest.mark.parametrize("folds", [1, 4])
def test_one_dimension_equals_the_brute_force_search(folds):
  rng = np.random.default_rng(3)
  for shift in (0.3, -1.0):
    source = rng.normal(size=56).astype(np.float32)
    target = rng.normal(size=83).astype(np.float32) + np.float32(shift)
    result = DIVERGENCE(source[:, None], target[:, None], folds=folds)
    expected = numpy_oracle(source, target, folds)
    np.testing.assert_allclose(
      [result.source_error, result.target_error], expected, atol=1e-6
    )
    np.testing.assert_allclose(
      result.value, max(0.0, 2 * (1 - expected.sum())), atol=1e-6
    )


def test_one_dimension_does_not_need_different_means():
  # Each fold has as many of either sign.
  source = np.float32([-1, -1, -1, -1, 1, 1, 1, 1] * 7)[:, None]
  target = np.zeros((83, 1), np.float32)
  assert DIVERGENCE(source, target, folds=4).value == pytest.approx(1.0)


@pytest.mark.slow
def test_disjoint_supports_are_two_apart():
  source, target = gaussians(60, 90, 0.0)
  result = DIVERGENCE(source, target + 100.0)
  assert result.value == 2
  assert result.source_error == result.target_error == 0


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 40])
def test_the_same_sample_is_no_distance_apart(dims):
  source, _ = gaussians(300, 1, 0.0, dims=dims)
  shuffled = np.random.default_rng(5).permutation(source)
  assert DIVERGENCE(source, source).value == 0
  assert DIVERGENCE(source, shuffled).value <= 0.05


@pytest.mark.slow
def test_a_key_shuffles_folds_and_keeps_equal_samples_in_step():
  source, _ = gaussians(300, 1, 0.0)
  run = functools.partial(DIVERGENCE, source, num_permutations=0)
  assert run(source, key=jax.random.key(1)).value == 0
  other = source + np.float32(0.2)
  values = {float(run(other, key=jax.random.key(k)).value) for k in range(4)}
  assert len(values) > 1
  assert run(other, key=jax.random.key(0)).null is None


@pytest.mark.slow
def test_more_dims_than_rows_is_not_taken_for_shift():
  source, target = gaussians(60, 40, 0.0, dims=200)
  assert DIVERGENCE(source, target).value < 0.6
  assert DIVERGENCE(source, target, folds=1).value == 2
  assert DIVERGENCE(source, target + 3.0).value == 2


@pytest.mark.slow
def test_null_distribution():
  same, other = gaussians(60, 90, 0.0), gaussians(60, 90, 2.0)
  key = jax.random.key(0)
  for seed, (source, target) in ((0, same), (1, other)):
    result = DIVERGENCE(source, target, key=key, num_permutations=60)
    assert result.null.shape == (60,)
    assert np.all((result.null >= 0) & (result.null <= 2))
    assert np.std(result.null) > 0
    p_value = (1 + np.sum(result.null >= result.value)) / 61
    assert p_value < 0.02 if seed else p_value > 0.05
  repeated = DIVERGENCE(source, target, key=key, num_permutations=60)
  np.testing.assert_array_equal(repeated.null, result.null)
  assert DIVERGENCE(source, target).null is None


@pytest.mark.slow
def test_ridges_are_solved_together_and_never_recompile():
  source, target = gaussians(60, 90, 1.0)
  ridges = np.float32([1e-3, 1e-1, 10.0])
  traces = []

  @functools.partial(jax.jit, static_argnames="num_permutations")
  def run(ridge, num_permutations=0):
    traces.append(None)
    return h_divergence(
      source,
      target,
      ridge=ridge,
      key=jax.random.key(2),
      num_permutations=num_permutations,
    )

  together = run(ridges, num_permutations=3)
  assert together.value.shape == (3,)
  assert together.null.shape == (3, 3)
  alone = [run(ridge) for ridge in ridges]
  assert len(traces) == 2
  np.testing.assert_allclose(
    together.value, [a.value for a in alone], atol=1e-6
  )


@pytest.mark.slow
def test_no_gradient_and_vmap():
  source, target = gaussians(60, 90, 1.0)
  batch = np.stack([source, source + 1.0])

  def value(x, ridge):
    return h_divergence(x, target, ridge=ridge).value

  both = jax.vmap(jax.value_and_grad(value, (0, 1)), (0, None))
  values, gradients = jax.jit(both)(batch, 0.01)
  alone = [DIVERGENCE(s, target).value for s in batch]
  np.testing.assert_allclose(values, alone, atol=1e-6)
  assert not np.any(gradients[0])
  assert not np.any(gradients[1])


@pytest.mark.slow
def test_dtypes():
  samples = gaussians(60, 90, 1.0)
  reference = DIVERGENCE(*samples)
  assert computed_in_float32(DIVERGENCE, *samples).value.dtype == jnp.float32
  with jax.enable_x64(True):
    result = DIVERGENCE(*map(np.float64, samples))
  assert result.value.dtype == jnp.float64
  assert result.value == pytest.approx(float(reference.value), abs=0.1)


def test_affine_maps_of_the_features_do_not_matter():
  source, target = gaussians(60, 90, 1.5)
  base = float(DIVERGENCE(source, target).value)
  scale = np.array([1e-3, 1.0, 1e3, 5.0, -2.0], np.float32)
  moved = DIVERGENCE(source * scale + 7.0, target * scale + 7.0)
  assert moved.value == pytest.approx(base, abs=0.05)


def test_constant_features_and_duplicated_rows():
  source, target = gaussians(60, 90, 1.5)
  first = np.arange(5) == 0
  values = []
  for constant in (0.0, 3.0, -1e4 / 3):
    replaced = (
      np.where(first, np.float32(constant), x) for x in (source, target)
    )
    values.append(float(DIVERGENCE(*replaced).value))
  assert values == pytest.approx([values[0]] * 3)
  assert DIVERGENCE(np.ones_like(source), np.ones_like(target)).value == 0
  repeated = (np.tile(x[: len(x) // 2], (2, 1)) for x in (source, target))
  assert 0.5 < DIVERGENCE(*repeated).value <= 2


def test_a_non_finite_row_does_not_read_as_no_shift():
  source, target = gaussians(60, 90, 1.5)
  source[3, 1] = np.nan
  result = DIVERGENCE(source, target)
  assert np.isnan(result.value)
  assert np.isnan(result.source_error)


def test_errors_name_the_argument():
  source, target = gaussians(6, 4, 1.0)
  with pytest.raises(ValueError, match=r"folds is 5; expected .* 1 to .* 4"):
    h_divergence(source, target)
  with pytest.raises(ValueError, match="ridge is 0"):
    h_divergence(source, target, folds=2, ridge=0.0)
  with pytest.raises(ValueError, match=r"ridge has shape \(1, 1\)"):
    h_divergence(source, target, folds=2, ridge=np.ones((1, 1)))
  with pytest.raises(ValueError, match="num_permutations is -1"):
    h_divergence(source, target, folds=2, num_permutations=-1)
  with pytest.raises(ValueError, match=r"target has shape \(4, 3\)"):
    h_divergence(source, target[:, :3])


@pytest.mark.slow
def test_ten_thousand_rows_of_256_dimensions_are_quick():
  source, target = gaussians(10_000, 10_000, 2.0, dims=256)
  jax.block_until_ready(DIVERGENCE(source, target))
  start = time.process_time()
  result = jax.block_until_ready(DIVERGENCE(source, target))
  # Processor time, which other programs on the machine do not touch.
  assert time.process_time() - start < 5.0
  assert result.value == pytest.approx(1.365, abs=0.06)


@pytest.mark.slow
def test_the_unit_of_a_feature_does_not_matter():
  source, target = gaussians(300, 300, 1.3, dims=40)
  expected = DIVERGENCE(source, target).value
  for unit in (np.float32(1e20), np.float32(1e-25)):
    value = DIVERGENCE(source * unit, target * unit).value
    np.testing.assert_allclose(value, expected, atol=0.03)


@pytest.mark.parametrize(
  ("keywords", "error", "message"),
  [
    ({"ridge": np.array([0.1, -1.0])}, ValueError, "ridge is"),
    ({"ridge": np.zeros(0)}, ValueError, r"ridge has shape \(0,\)"),
    ({"folds": 9}, ValueError, "folds is 9"),
    ({"num_permutations": -1}, ValueError, "num_permutations is -1"),
    ({"key": 0}, TypeError, "key is 0; expected a JAX random key"),
  ],
)
def test_static_arguments_are_checked(keywords, error, message):
  with pytest.raises(error, match=message):
    h_divergence(*np.ones((2, 8, 2), np.float32), **keywords)
