"""Affine maps and principal subspaces against SciPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from jax.sharding import PartitionSpec as P
from sklearn.decomposition import PCA

from kdjax.transforms import coral_transform, gfk, linear_ot, subspace_alignment
from tests.laws import computed_in_float32, slopes_agree, trace

DIMS = 6
METHODS = {
  "coral": coral_transform,
  "centred coral": functools.partial(coral_transform, center=True),
  "linear transport": functools.partial(linear_ot, ridge=1e-3),
  "alignment": functools.partial(subspace_alignment, num_components=2),
  "flow": functools.partial(gfk, num_components=2),
}


def samples(n_source=16, n_target=24, dims=DIMS, seed=0):
  rng = np.random.default_rng(seed)
  scales = 2.0 ** -np.arange(dims)
  source = scales * rng.normal(size=(n_source, dims)) + 1
  target = scales * rng.normal(size=(n_target, dims))
  return source, target @ (np.eye(dims) + rng.normal(size=(dims, dims)) / 3)


@functools.cache
def program(name):
  """Compiled once a method and type: both domains, mapped under masks."""

  def run(source, target, where_source=None, where_target=None):
    fitted = METHODS[name](
      source, target, where_source=where_source, where_target=where_target
    )
    return fitted.apply(source), fitted.apply(target, domain="target")

  return jax.jit(run)


@functools.cache
def fitting(form, **options):
  """Compiled once a form: the map, and both domains mapped."""

  def run(source, target, **hyper):
    fitted = form(source, target, **options, **hyper)
    mapped = fitted.apply(source), fitted.apply(target, domain="target")
    return fitted, *mapped

  return jax.jit(run)


ALL = np.ones(16, bool), np.ones(24, bool)
SOME = np.arange(16) % 4 != 1, np.arange(24) % 5 != 2


def mapped(name, source, target):
  with jax.enable_x64(True):
    return program(name)(source, target, *ALL)


def root(matrix, power=0.5):
  return np.real(scipy.linalg.fractional_matrix_power(matrix, power))


@pytest.mark.parametrize("ridge", [1.0, 1e-5])
def test_coral_equals_scipy(ridge):
  source, target = samples()
  of_source, of_target = (
    np.cov(x.T) + ridge * np.eye(DIMS) for x in (source, target)
  )
  matrix = root(of_source, -0.5) @ root(of_target)
  with jax.enable_x64(True):
    run = fitting(coral_transform)
    _, of_source, of_target = run(source, target, ridge=ridge)
  np.testing.assert_allclose(of_source, source @ matrix, 1e-8)
  np.testing.assert_array_equal(of_target, target)


def test_centred_coral_moves_the_mean_too():
  source, target = samples(300, 400)
  with jax.enable_x64(True):
    run = fitting(coral_transform, center=True)
    moved = np.asarray(run(source, target, ridge=1e-9)[1])
  np.testing.assert_allclose(np.cov(moved.T), np.cov(target.T), atol=1e-6)
  np.testing.assert_allclose(moved.mean(0), target.mean(0), atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-6, 0.1])
def test_linear_transport_equals_scipy(ridge):
  source, target = samples()
  of_source, of_target = (
    np.cov(x.T, bias=True) + ridge * np.eye(DIMS) for x in (source, target)
  )
  half, back = root(of_source), root(of_source, -0.5)
  matrix = back @ root(half @ of_target @ half) @ back
  expected = (source - source.mean(0)) @ matrix + target.mean(0)
  with jax.enable_x64(True):
    fitted, moved, _ = fitting(linear_ot)(source, target, ridge=ridge)
    there = jax.jit(linear_ot)(target, source, ridge=ridge)
  np.testing.assert_allclose(moved, expected, rtol=1e-6)
  # The maps between two Gaussians are inverse to each other.
  matrix = np.asarray(fitted.source_matrix)
  both = matrix @ np.asarray(there.source_matrix)
  np.testing.assert_allclose(both, np.eye(DIMS), atol=1e-6)
  np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9)


@pytest.mark.parametrize("components", [1, 3])
def test_alignment_equals_scikit_learn(components):
  source, target = samples()
  with jax.enable_x64(True):
    run = fitting(subspace_alignment, num_components=components)
    _, of_source, of_target = run(source, target)
  pca_source, pca_target = (PCA(components).fit(x) for x in (source, target))
  turn = pca_source.components_ @ pca_target.components_.T
  signs = np.sign(
    np.take_along_axis(
      pca_target.components_,
      np.abs(pca_target.components_).argmax(1)[:, None],
      1,
    )
  ).T
  np.testing.assert_allclose(
    of_source, pca_source.transform(source) @ turn * signs, atol=1e-9
  )
  np.testing.assert_allclose(
    of_target, pca_target.transform(target) * signs, atol=1e-9
  )


def test_alignment_with_all_axes_only_turns():
  source, target = samples()
  with jax.enable_x64(True):
    moved = np.asarray(fitting(subspace_alignment)(source, target)[1])
  gram = (source - source.mean(0)) @ (source - source.mean(0)).T
  np.testing.assert_allclose(moved @ moved.T, gram, atol=1e-9)


@pytest.mark.parametrize(("dims", "components"), [(6, 2), (3, 2), (4, 4)])
def test_flow_equals_the_integral(dims, components):
  """Over the geodesic itself, by quadrature; 2 * components > dims too."""
  source, target = samples(dims=dims)
  of_source, of_target = (
    np.linalg.svd(x - x.mean(0))[2][:components].T for x in (source, target)
  )
  left, cosines, right = np.linalg.svd(of_source.T @ of_target)
  a, b = of_source @ left, of_target @ right.T
  angles = np.arccos(np.clip(cosines, 0, 1))
  sines = np.where(angles > 1e-6, np.sin(angles), 1)
  ahead = np.where(angles > 1e-6, (b - a * cosines) / sines, 0)

  def flow(time):
    basis = a * np.cos(time * angles) + ahead * np.sin(time * angles)
    return (basis @ basis.T).ravel()

  kernel = scipy.integrate.quad_vec(flow, 0, 1)[0].reshape(dims, dims)
  with jax.enable_x64(True):
    fitted, *moved = fitting(gfk, num_components=components)(source, target)
  moved = jax.device_get(moved)
  matrix = np.asarray(fitted.source_matrix)
  np.testing.assert_allclose(matrix @ matrix, kernel, atol=1e-7)
  np.testing.assert_allclose(
    moved[0] @ moved[1].T, source @ kernel @ target.T, atol=1e-6
  )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_flow_is_smooth_at_small_angles(dtype):
  """Between series and closed form nothing jumps; at 0 it is the projection."""
  rows = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
  form = jax.jit(functools.partial(gfk, num_components=1))
  tolerance = 1e-11 if dtype == np.float64 else 3e-6
  for angle in (0.0, 1e-6, 1e-3, 0.0244, 0.0245, 0.244, 0.246, 1.0, 1.5):
    turn = np.array(
      [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    with jax.enable_x64(dtype == np.float64):
      fitted = form(rows.astype(dtype), (rows @ turn).astype(dtype))
    matrix = np.float64(fitted.source_matrix)
    kernel = matrix @ matrix
    double = np.sinc(2 * angle / np.pi)
    expected = [
      [(1 + double) / 2, angle * np.sinc(angle / np.pi) ** 2 / 2],
      [angle * np.sinc(angle / np.pi) ** 2 / 2, (1 - double) / 2],
    ]
    np.testing.assert_allclose(kernel, expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_mask_equals_a_slice(name):
  source, target = samples()
  spoiled = np.where(SOME[0][:, None], source, np.nan)
  with jax.enable_x64(True):
    masked = program(name)(spoiled, target, *SOME)
    sliced = program(name)(source[SOME[0]], target[SOME[1]])
  for got, where, want in zip(masked, SOME, sliced, strict=True):
    np.testing.assert_allclose(got[where], want, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_extremes_are_finite(name):
  source, target = map(np.float32, samples())
  none = np.zeros(16, bool), np.zeros(24, bool)
  one = np.arange(16) == 3, np.arange(24) == 3
  for where in (none, one, ALL):
    for factor in np.float32([0.0, 1e-4, 1e4]):
      pair = factor * source, factor * target
      assert all(np.all(np.isfinite(x)) for x in program(name)(*pair, *where))
  gradients = gradient(name)
  for pair in (
    (source, target),
    (np.float32(1e4) * source, np.float32(1e4) * target),
    (0 * source, 0 * target),
    (source, np.concatenate([source, source[:8]])),
  ):
    assert all(np.all(np.isfinite(x)) for x in gradients(*pair))


@functools.cache
def gradient(name):
  return jax.jit(jax.grad(lambda *x: loss(name, *x), (0, 1)))


def loss(name, source, target):
  fitted = METHODS[name](source, target)
  return jnp.mean(jnp.square(jnp.sin(fitted.apply(source)))) + jnp.mean(
    jnp.cos(fitted.apply(target, domain="target"))
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_gradients(name):
  slopes_agree(functools.partial(loss, name), samples())


@pytest.mark.slow
@pytest.mark.parametrize("form", [coral_transform, linear_ot])
def test_roots_of_equal_eigenvalues_have_a_gradient(form):
  """Isotropic covariances: an eigenvector's derivative would be infinite."""
  source = np.concatenate([np.eye(3), -np.eye(3)])

  def tilted(source, target):
    matrix = form(source, target, ridge=0.1).source_matrix
    return jnp.sum(matrix * jnp.arange(9.0).reshape(3, 3))

  slopes_agree(tilted, (source, 2 * source + 1))


@pytest.mark.parametrize("form", [coral_transform, linear_ot])
def test_pixels_that_never_change(form):
  """A covariance of low rank, in float32, with next to no ridge."""
  rng = np.random.default_rng(0)
  basis = rng.normal(size=(5, 48))
  source, target = (
    (rng.normal(size=(80, 5)) @ mixed @ basis).astype(np.float32)
    for mixed in rng.normal(size=(2, 5, 5))
  )
  _, mapped, _ = fitting(form)(source, target, ridge=1e-6)
  assert np.abs(mapped).max() < 3 * np.abs(target).max()
  if form is linear_ot:  # its image has the target's covariance
    got, want = np.cov(mapped.T, bias=True), np.cov(target.T, bias=True)
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_computed_in_float32(name):
  source, target = map(np.float32, samples())
  for mapped in computed_in_float32(program(name), source, target, *ALL):
    assert mapped.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_devices_agree(name):
  source, target = samples()
  where = np.arange(16) >= 3, np.arange(24) < 20

  def run(source, target, where_source, where_target):
    fitted = METHODS[name](
      source,
      target,
      where_source=where_source,
      where_target=where_target,
      axis_name="batch",
    )
    return fitted.apply(source), fitted.apply(target, domain="target")

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    run, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")
  )
  with jax.enable_x64(True):
    expected = program(name)(source, target, *where)
    for got, want in zip(
      jax.jit(sharded)(source, target, *where), expected, strict=True
    ):
      np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_map_is_a_pytree_and_a_ridge_an_argument():
  pair = tuple(map(np.float32, samples()))
  traces = []

  def form(ridge, source, target):
    traces.append(None)
    return coral_transform(source, target, ridge=ridge)

  run = jax.jit(form)
  assert not np.allclose(
    run(0.1, *pair).source_matrix, run(3.0, *pair).source_matrix
  )
  assert len(traces) == 1
  several = jax.jit(jax.vmap(form, (0, None, None)))(
    np.float32([0.1, 3.0]), *pair
  )
  np.testing.assert_allclose(
    several.source_matrix[1], run(3.0, *pair).source_matrix, atol=1e-4
  )


def test_errors_name_the_argument():
  source, target = map(np.float32, samples())
  with pytest.raises(ValueError, match=r"target has shape \(24, 5\)"):
    trace(coral_transform, source, target[:, :5])
  with pytest.raises(ValueError, match=r"ridge is 0.0; expected"):
    trace(linear_ot, source, target, ridge=0.0)
  with pytest.raises(ValueError, match="num_components is 7; expected at most"):
    trace(gfk, source, target, num_components=7)
  with pytest.raises(ValueError, match="num_components is 0"):
    trace(subspace_alignment, source, target, num_components=0)

  def apply(source, target, rows, **options):
    return coral_transform(source, target).apply(rows, **options)

  with pytest.raises(ValueError, match="domain is 'both'"):
    trace(apply, source, target, source, domain="both")
  with pytest.raises(ValueError, match=r"rows has shape \(16, 5\)"):
    trace(apply, source, target, source[:, :5])
