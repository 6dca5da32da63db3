"""Joint distribution adaptation (Long 2013)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.transforms import joint_distribution_adaptation, tca
from tests.laws import computed_in_float32, slopes_agree, trace
from tests.transforms.component_maps import (
  CASES,
  CLASSES,
  fit_and_apply,
  oracle,
  same_up_to_sign,
  samples,
)


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 5])
@pytest.mark.parametrize(("kernel", "normalize", "scaling"), CASES[1:4:2])
def test_jda_equals_scipy(kernel, normalize, scaling, iterations):
  source, target, labels = samples(seed=2)
  target = target + 2.0  # some pseudo-labels change from round to round
  form = functools.partial(
    joint_distribution_adaptation,
    num_classes=CLASSES,
    num_components=2,
    kernel=kernel,
    normalize=normalize,
    scaling=scaling,
    num_iterations=iterations,
  )
  hyper = {} if kernel != "rbf" else {"gamma": 0.2}
  with jax.enable_x64(True):
    fitted, mapped = fit_and_apply(
      form, source, target, labels, ridge=0.5, **hyper
    )
  expected, pseudo = oracle(
    source, target, labels, components=2, ridge=0.5, kernel=kernel, gamma=0.2,
    normalize=normalize, scaling=scaling, iterations=iterations,
  )  # fmt: skip
  np.testing.assert_array_equal(fitted.target_labels, pseudo)
  same_up_to_sign(mapped, expected, 1e-7)


def fit_tca(source, target, **options):
  return tca(source, target, num_components=2, **options)


def fit_jda(source, target, **options):
  labels = jnp.arange(source.shape[0]) % CLASSES
  return joint_distribution_adaptation(
    source,
    target,
    labels,
    num_classes=CLASSES,
    num_components=2,
    num_iterations=3,
    **options,
  )


METHODS = {
  "tca": fit_tca,
  "kernel tca": functools.partial(fit_tca, kernel="rbf", gamma=0.1),
  "jda": fit_jda,
}
ALL = np.ones(18, bool), np.ones(24, bool)


@functools.cache
def program(name):
  def run(source, target, where_source=None, where_target=None):
    fitted = METHODS[name](
      source, target, where_source=where_source, where_target=where_target
    )
    return fitted.apply(source), fitted.apply(target, domain="target")

  return jax.jit(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_mask_equals_a_slice(name):
  source, target, _ = samples()
  # The labels of the rows that are left are those of a shorter sample.
  where = np.arange(18) < 15, np.arange(24) % 5 != 2
  spoiled = np.where(where[0][:, None], source, np.nan)
  with jax.enable_x64(True):
    masked = program(name)(spoiled, target, *where)
    sliced = program(name)(source[where[0]], target[where[1]])
  for got, mask, want in zip(masked, where, sliced, strict=True):
    same_up_to_sign(np.asarray(got)[mask], np.asarray(want), 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_extremes_are_finite(name):
  source, target = map(np.float32, samples()[:2])
  none = np.zeros(18, bool), np.zeros(24, bool)
  one = np.arange(18) == 3, np.arange(24) == 3
  for where in (none, one, ALL):
    for factor in np.float32([0.0, 1e-4, 1e4]):
      pair = factor * source, factor * target
      assert all(np.all(np.isfinite(x)) for x in program(name)(*pair, *where))
  gradients = jax.jit(jax.grad(lambda *x: loss(name, *x), (0, 1)))
  for factor in np.float32([0.0, 1.0, 1e4]):
    pair = factor * source, factor * target
    assert all(np.all(np.isfinite(x)) for x in gradients(*pair))


def loss(name, source, target):
  fitted = METHODS[name](source, target)
  return jnp.mean(jnp.square(jnp.sin(3 * fitted.apply(source)))) + jnp.mean(
    jnp.cos(3 * fitted.apply(target))
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_gradients(name):
  slopes_agree(functools.partial(loss, name), samples()[:2])


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_computed_in_float32(name):
  source, target = map(np.float32, samples()[:2])
  for mapped in computed_in_float32(program(name), source, target, *ALL):
    assert mapped.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tca", "jda"])
def test_devices_agree(name):
  source, target, _ = samples(16, 24)
  labels = np.arange(16) % CLASSES
  where = np.arange(16) >= 3, np.arange(24) < 20

  def run(source, target, labels, where_source, where_target, axis_name=None):
    options = {
      "where_source": where_source,
      "where_target": where_target,
      "axis_name": axis_name,
      "num_components": 2,
    }
    if name == "tca":
      fitted = tca(source, target, **options)
    else:
      fitted = joint_distribution_adaptation(
        source, target, labels, num_classes=CLASSES, num_iterations=3, **options
      )
    # What a masked row is taken for does not matter.
    labels = jax.tree.map(
      lambda labels: jnp.where(where_target, labels, 0), fitted.target_labels
    )
    return fitted.apply(source), fitted.apply(target), labels

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    functools.partial(run, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P("batch"),
  )
  arguments = source, target, labels, *where
  with jax.enable_x64(True):
    expected = jax.jit(run)(*arguments)
    result = jax.jit(sharded)(*arguments)
  for got, want in zip(
    jax.tree.leaves(result), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.slow
def test_components_help_where_features_shift():
  """The nearest source row is of the right class more often, on average."""
  form = jax.jit(
    functools.partial(
      joint_distribution_adaptation,
      num_classes=3,
      num_components=2,
      num_iterations=2,
      normalize=False,
    )
  )
  with_jda, without = [], []
  for seed in range(4):
    rng = np.random.default_rng(seed)
    of_source = np.repeat(np.arange(3), 30)
    of_target = np.repeat(np.arange(3), [20, 30, 40])
    source = 2 * np.eye(3, 6)[of_source] + rng.normal(size=(90, 6)) / 2
    target = 2 * np.eye(3, 6)[of_target] + rng.normal(size=(90, 6)) / 2
    target += np.array([1.5, -0.8, 0, 0, 0, 0])
    fitted = form(np.float32(source), np.float32(target), of_source, ridge=0.1)
    with_jda.append(np.mean(fitted.target_labels == of_target))
    gaps = np.sum((target[:, None] - source[None]) ** 2, -1)
    without.append(np.mean(of_source[gaps.argmin(1)] == of_target))
  assert np.mean(with_jda) > np.mean(without) + 0.05


def test_errors_name_the_argument():
  source, target = map(np.float32, samples()[:2])
  labels = samples()[2]
  with pytest.raises(ValueError, match="kernel is 'cubic'"):
    trace(tca, source, target, kernel="cubic")
  with pytest.raises(ValueError, match="scaling is 'mean'"):
    trace(tca, source, target, scaling="mean")
  with pytest.raises(ValueError, match=r"num_components is 6; .* 5 features"):
    trace(tca, source, target, num_components=6)
  with pytest.raises(ValueError, match=r"ridge is 0.0; expected"):
    trace(tca, source, target, ridge=0.0)
  with pytest.raises(ValueError, match=r"source_labels has shape \(24,\)"):
    trace(
      joint_distribution_adaptation,
      source,
      target,
      np.arange(24),
      num_classes=3,
    )
  with pytest.raises(ValueError, match="num_iterations is 0"):
    trace(
      joint_distribution_adaptation,
      source,
      target,
      labels,
      num_classes=3,
      num_iterations=0,
    )
  with pytest.raises(ValueError, match=r"rows has shape \(24, 4\)"):
    trace(lambda s, t: fit_tca(s, t).apply(t[:, :4]), source, target)
