"""What holds for all weights of instances that are fitted on two samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.reweighting import (
  discriminator_weights,
  kliep_weights,
  kmm_weights,
  target_shift_weights,
  ulsif_weights,
)
from tests.laws import computed_in_float32, trace


def samples(n_source=16, n_target=24, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, 0.7 * rng.normal(size=(n_target, dims)) + 0.5


def weights_of_labels(source, target, **options):
  labels = jnp.arange(source.shape[0]) % 2
  return target_shift_weights(
    source, target, labels, num_classes=3, epsilon=0.3, **options
  )


METHODS = {
  "kmm": functools.partial(kmm_weights, epsilon=0.3),
  "target shift": weights_of_labels,
  "kliep": functools.partial(kliep_weights, num_centers=8),
  "ulsif": functools.partial(ulsif_weights, num_centers=8),
  "discriminator": functools.partial(discriminator_weights, ridge=0.1),
}


@functools.cache
def program(name):
  """Compiled once a method and type: the weights under masks."""

  def run(source, target, where_source, where_target):
    return METHODS[name](
      source, target, where_source=where_source, where_target=where_target
    )

  return jax.jit(run)


ALL = np.ones(16, bool), np.ones(24, bool)
SOME = np.arange(16) % 4 != 1, np.arange(24) % 5 != 2


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_weights_find_the_target(name):
  """Source rows near the target weigh more; equal samples weigh 1."""
  source, target = map(np.float32, samples())
  weights = program(name)(source, target, *ALL)
  np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-5)
  assert np.min(weights) >= 0
  assert not np.allclose(weights, 1, atol=1e-3)
  if name == "discriminator":
    along = source @ (target.mean(0) - source.mean(0))
    assert np.corrcoef(along, weights)[0, 1] > 0.5
  elif name != "target shift":
    near = np.linalg.norm(source - target.mean(0), axis=1)
    assert np.corrcoef(near, weights)[0, 1] < -0.3
  if name in ("kmm", "target shift", "discriminator"):
    same = np.concatenate([source, 0 * source[:8]])
    even = program(name)(source, same, ALL[0], np.arange(24) < 16)
    np.testing.assert_allclose(even, 1, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_mask_equals_a_slice(name):
  source, target = samples()
  spoiled = np.where(SOME[0][:, None], source, np.nan)
  with jax.enable_x64(True):
    masked = program(name)(spoiled, target, *SOME)
    labels = np.arange(16)[SOME[0]] % 2
    form = METHODS[name]
    if name == "target shift":
      form = functools.partial(
        target_shift_weights,
        source_labels=labels,
        num_classes=3,
        epsilon=0.3,
      )
    sliced = jax.jit(form)(source[SOME[0]], target[SOME[1]])
  assert masked.dtype == np.float64
  masked = np.asarray(masked)
  np.testing.assert_array_equal(masked[~SOME[0]], 0)
  np.testing.assert_allclose(masked[SOME[0]], sliced, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_extremes_are_finite(name):
  source, target = map(np.float32, samples())
  run = program(name)
  none = np.zeros(16, bool), np.zeros(24, bool)
  np.testing.assert_array_equal(run(source, target, none[0], ALL[1]), 0)
  np.testing.assert_allclose(run(source, target, ALL[0], none[1]), 1)
  one = run(source, target, np.arange(16) == 3, np.arange(24) == 3)
  np.testing.assert_allclose(one, np.arange(16) == 3, atol=1e-5)
  far = [(1e4 * source, 1e4 * target), (source - 1e4, target + 1e4)]
  equal = [(0 * source, 0 * target), (0 * source + 3, 0 * target - 2)]
  for pair in far + equal:
    weights = run(*pair, *ALL)
    assert np.all(np.isfinite(weights))
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_and_no_gradient(name):
  source, target = map(np.float32, samples())
  weights = computed_in_float32(program(name), source, target, *ALL)
  assert weights.dtype == jnp.float32

  @jax.jit
  def run(source, target):
    def loss(source, target):
      return jnp.sum(jnp.square(METHODS[name](source, target)))

    _, pull = jax.vjp(loss, source, target)
    _, change = jax.jvp(loss, (source, target), (source, target))
    return pull(jnp.ones(())), change

  gradients, change = run(source, target)
  for gradient in gradients:
    np.testing.assert_array_equal(gradient, 0)
  assert change == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kmm", "kliep", "discriminator"])
def test_devices_agree(name):
  source, target = map(np.float32, samples())
  where = np.arange(16) >= 3, np.arange(24) < 20
  expected = program(name)(source, target, *where)

  def run(source, target, where_source, where_target):
    return METHODS[name](
      source,
      target,
      where_source=where_source,
      where_target=where_target,
      axis_name="batch",
    )

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    run, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")
  )
  weights = jax.jit(sharded)(source, target, *where)
  np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_mapped_axes_agree():
  """Class weights and least squares, over an axis of `jax.vmap`."""
  source, target = map(np.float32, samples())
  labels = np.arange(16) % 2

  def run(source, target, labels, axis_name=None):
    shared = {"gamma": 0.5, "axis_name": axis_name}
    return (
      target_shift_weights(source, target, labels, num_classes=3, **shared),
      ulsif_weights(source, target, num_centers=8, **shared),
    )

  arguments = source, target, labels
  shards = [np.reshape(x, (8, -1, *x.shape[1:])) for x in arguments]
  form = jax.vmap(functools.partial(run, axis_name="batch"), axis_name="batch")
  for got, want in zip(
    jax.jit(form)(*shards), jax.jit(run)(*arguments), strict=True
  ):
    np.testing.assert_allclose(np.ravel(got), want, rtol=1e-3, atol=1e-3)


def test_one_program_for_all_hyper_parameters():
  pair = tuple(map(np.float32, samples()))
  traces = []

  @jax.jit
  def run(source, target, **hyper):
    traces.append(None)
    return ulsif_weights(source, target, **hyper)

  first = run(*pair, gamma=0.5, ridge=0.1, alpha=0.1)
  assert not np.allclose(run(*pair, gamma=2.0, ridge=0.5, alpha=0.3), first)
  assert len(traces) == 1


def test_errors_name_the_argument():
  source, target = map(np.float32, samples())
  with pytest.raises(ValueError, match=r"target has shape \(24, 2\)"):
    trace(kmm_weights, source, target[:, :2])
  with pytest.raises(ValueError, match="kernel is 'cubic'"):
    trace(kmm_weights, source, target, kernel="cubic")
  with pytest.raises(ValueError, match=r"upper_bound is -1.0"):
    trace(kmm_weights, source, target, upper_bound=-1.0)
  with pytest.raises(ValueError, match=r"upper_bound is 0.5; expected more"):
    trace(kmm_weights, source, target, upper_bound=0.5, epsilon=0.1)
  with pytest.raises(ValueError, match=r"gamma is 0.0"):
    trace(kliep_weights, source, target, gamma=0.0)
  with pytest.raises(ValueError, match=r"ridge has shape \(1, 2\)"):
    trace(ulsif_weights, source, target, ridge=np.ones((1, 2)))
  with pytest.raises(ValueError, match=r"alpha is 1.5; expected a number in"):
    trace(ulsif_weights, source, target, alpha=1.5)
  with pytest.raises(ValueError, match="folds is 1"):
    trace(kliep_weights, source, target, gamma=[1.0, 2.0], num_folds=1)
  with pytest.raises(TypeError, match="source_labels has dtype float32"):
    trace(
      target_shift_weights,
      source,
      target,
      np.ones(16, np.float32),
      num_classes=2,
    )
  with pytest.raises(ValueError, match="target is None; expected"):
    trace(discriminator_weights, source)
