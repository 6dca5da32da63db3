"""Instance weights against optimality conditions in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy.optimize import minimize

from kdjax.adaptation import discriminator_weights
from kdjax.adaptation import kliep_weights
from kdjax.adaptation import kmm_weights
from kdjax.adaptation import target_shift_weights
from kdjax.adaptation import ulsif_weights
from tests.laws import QUICK

quick = functools.partial(jax.jit, compiler_options=QUICK)


def samples(n_source=16, n_target=24, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, 0.7 * rng.normal(size=(n_target, dims)) + 0.5


def kernel(a, b, gamma):
  return np.exp(-gamma * np.sum((a[:, None] - b[None]) ** 2, -1))


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

  return quick(run)


ALL = np.ones(16, bool), np.ones(24, bool)
SOME = np.arange(16) % 4 != 1, np.arange(24) % 5 != 2


def linear_gap(weights, gradient, upper, low, high):
  """How much a linear objective could still fall: bounds what is missing."""
  best, total = np.zeros_like(weights), 0.0
  for i in np.argsort(gradient):
    room = min(upper, high - total)
    if gradient[i] >= 0:
      room = min(room, max(0.0, low - total))
    best[i] = max(room, 0.0)
    total += best[i]
  return gradient @ (weights - best)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
  ("gamma", "upper", "epsilon"),
  [(0.3, 1000.0, 0.7), (1.0, 1.0, 0.15), (0.05, 2.0, 0.2), (3.0, 5.0, 1e-3)],
)
def test_kmm_is_optimal(dtype, gamma, upper, epsilon):
  source, target = samples(40, 30)
  n = len(source)
  with jax.enable_x64(dtype == np.float64):
    weights = KMM(
      jnp.asarray(source, dtype),
      jnp.asarray(target, dtype),
      gamma,
      upper,
      epsilon,
    )
  weights = np.float64(weights)
  gram = kernel(source, source, gamma)
  pull = n / len(target) * kernel(source, target, gamma).sum(1)
  tolerance = 1e-8 if dtype == np.float64 else 1e-4
  low, high = n * (1 - epsilon), n * (1 + epsilon)
  assert weights.min() >= 0
  assert weights.max() <= upper * (1 + tolerance)
  assert low - n * tolerance <= weights.sum() <= high + n * tolerance
  objective = weights @ gram @ weights / 2 - pull @ weights
  gap = linear_gap(weights, gram @ weights - pull, upper, low, high)
  assert gap <= tolerance * abs(objective)


KMM = quick(
  lambda source, target, gamma, upper, epsilon: kmm_weights(
    source,
    target,
    gamma=gamma,
    upper_bound=upper,
    epsilon=epsilon,
    normalize=False,
  )
)


def test_kmm_equals_a_general_solver():
  source, target = samples(9, 7)
  gram = kernel(source, source, 1 / 3)
  pull = 9 / 7 * kernel(source, target, 1 / 3).sum(1)
  epsilon = (np.sqrt(9) - 1) / np.sqrt(9)
  best = minimize(
    lambda w: w @ gram @ w / 2 - pull @ w,
    np.ones(9),
    jac=lambda w: gram @ w - pull,
    bounds=[(0, 2.5)] * 9,
    constraints=[
      {"type": "ineq", "fun": lambda w: w.sum() - 9 * (1 - epsilon)},
      {"type": "ineq", "fun": lambda w: 9 * (1 + epsilon) - w.sum()},
    ],
    method="SLSQP",
    options={"ftol": 1e-14, "maxiter": 500},
  )
  with jax.enable_x64(True):
    run = quick(functools.partial(kmm_weights, normalize=False))
    weights = run(source, target, upper_bound=2.5)
    scaled = quick(kmm_weights)(source, target, upper_bound=2.5)
  np.testing.assert_allclose(weights, best.x, atol=1e-4)
  weights = np.asarray(weights)
  np.testing.assert_allclose(scaled, weights / weights.mean(), rtol=1e-9)


def test_kmm_with_a_linear_kernel_matches_means():
  source, target = samples(30, 40, 2)
  with jax.enable_x64(True):
    weights = quick(functools.partial(kmm_weights, kernel="linear"))(
      source, target, epsilon=1e-6
    )
  mean = np.mean(np.asarray(weights)[:, None] * source, 0)
  np.testing.assert_allclose(mean, target.mean(0), atol=1e-4)


def test_target_shift_is_optimal():
  source, target = samples(40, 30)
  labels = np.arange(40) % 3
  gamma, upper, epsilon, n = 0.5, 10.0, 0.1, 40
  with jax.enable_x64(True):
    weights = quick(
      functools.partial(
        target_shift_weights, num_classes=3, epsilon=epsilon, normalize=False
      )
    )(source, target, jnp.asarray(labels), gamma=gamma)
  members = np.eye(3)[labels]
  alpha = np.array(
    [np.mean(np.asarray(weights)[labels == c]) for c in range(3)]
  )
  np.testing.assert_allclose(weights, members @ alpha, rtol=1e-12)
  # skada's projection by the labels' kernel, its regulariser gone to 0.
  labelled = np.exp(-((labels[:, None] - labels[None]) ** 2.0))
  omega = labelled @ np.linalg.pinv(labelled, rcond=1e-9)
  within = omega @ kernel(source, source, gamma) @ omega.T
  quadratic = members.T @ within @ members
  pull = n / 30 * kernel(target, source, gamma).sum(0) @ omega.T @ members
  sizes = members.sum(0)
  gap = linear_gap(
    alpha * sizes,
    (quadratic @ alpha - pull) / sizes,
    np.inf,
    n * (1 - epsilon),
    n * (1 + epsilon),
  )
  objective = alpha @ quadratic @ alpha / 2 - pull @ alpha
  assert alpha.max() < upper
  assert gap <= 1e-6 * abs(objective)


def test_target_shift_finds_the_classes_of_the_target():
  rng = np.random.default_rng(0)
  centers = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
  of_source = np.repeat(np.arange(3), 30)
  of_target = np.repeat(np.arange(3), [15, 60, 15])
  source = jnp.float32(centers[of_source] + rng.normal(size=(90, 2)) / 2)
  target = jnp.float32(centers[of_target] + rng.normal(size=(90, 2)) / 2)
  weights = quick(functools.partial(target_shift_weights, num_classes=3))(
    source, target, jnp.asarray(of_source)
  )
  np.testing.assert_allclose(weights[::30], [0.5, 2.0, 0.5], atol=0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kliep_is_optimal(dtype):
  source, target = samples(40, 30)
  run = quick(kliep_weights)
  for gamma in (0.1, 1.0, 8.0):
    with jax.enable_x64(dtype == np.float64):
      weights = np.float64(
        run(jnp.asarray(source, dtype), jnp.asarray(target, dtype), gamma=gamma)
      )
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)
    features = kernel(source, target, gamma)
    means = features.mean(0)
    at_target = kernel(target, target, gamma)
    ratios = at_target / means
    best = minimize(
      lambda x, r=ratios: -np.mean(np.log(r @ (x**2 / np.sum(x**2)))),
      np.ones(30),
      method="L-BFGS-B",
      options={"maxiter": 20000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9},
    )
    expected = features / means @ (best.x**2 / np.sum(best.x**2))
    np.testing.assert_allclose(weights, expected, rtol=0.02, atol=5e-3)


def test_kliep_reaches_what_frank_wolfe_approaches():
  source, target = samples(40, 30)
  features = kernel(target, target, 1.0) / kernel(source, target, 1.0).mean(0)
  x = np.full(30, 1 / 30)
  for step in range(5000):
    gradient = np.mean(features / (features @ x)[:, None], 0)
    best = np.argmax(gradient)
    rate = 2 / (step + 3)
    x = (1 - rate) * x + rate * np.eye(30)[best]
  with jax.enable_x64(True):
    run = quick(functools.partial(kliep_weights, gamma=1.0))
    weights = np.asarray(run(source, target))
  expected = kernel(source, target, 1.0) / kernel(source, target, 1.0).mean(0)
  np.testing.assert_allclose(weights, expected @ x, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_ulsif_equals_numpy(alpha):
  source, target = samples(20, 30)
  centers = target[:12]
  of_source, of_target = (kernel(x, centers, 0.7) for x in (source, target))
  products = alpha * of_target.T @ of_target / 30
  products += (1 - alpha) * of_source.T @ of_source / 20
  theta = np.linalg.solve(products + 0.05 * np.eye(12), of_target.mean(0))
  expected = of_source @ np.maximum(theta, 0)
  with jax.enable_x64(True):
    weights = ULSIF(source, target, 0.7, 0.05, alpha)
  np.testing.assert_allclose(weights, expected, rtol=1e-9)
  scaled = quick(
    functools.partial(ulsif_weights, num_centers=12, gamma=0.7, ridge=0.05)
  )(jnp.float32(source), jnp.float32(target), alpha=alpha)
  np.testing.assert_allclose(scaled, expected / expected.mean(), rtol=1e-4)


ULSIF = quick(
  lambda source, target, gamma, ridge, alpha: ulsif_weights(
    source,
    target,
    gamma=gamma,
    ridge=ridge,
    alpha=alpha,
    num_centers=12,
    normalize=False,
  )
)


def test_ulsif_chooses_by_held_out_error():
  source, target = samples(40, 30)
  gammas, ridges = [0.01, 0.5, 20.0], [1e-3, 1.0]
  scores = {}
  for gamma in gammas:
    of_source, of_target = (kernel(x, target, gamma) for x in (source, target))
    for ridge in ridges:
      errors = []
      for fold in range(3):
        s, t = np.arange(40) % 3 == fold, np.arange(30) % 3 == fold
        products = of_source[~s].T @ of_source[~s] / np.sum(~s)
        theta = np.linalg.solve(
          products + ridge * np.eye(30), of_target[~t].mean(0)
        )
        theta = np.maximum(theta, 0)
        errors.append(
          np.mean((of_source[s] @ theta) ** 2) / 2
          - np.mean(of_target[t] @ theta)
        )
      scores[gamma, ridge] = np.mean(errors)
  gamma, ridge = min(scores, key=scores.get)
  form = quick(functools.partial(ulsif_weights, folds=3))
  with jax.enable_x64(True):
    several = jnp.array(gammas), jnp.array(ridges)
    chosen = form(source, target, gamma=several[0], ridge=several[1])
    expected = form(source, target, gamma=gamma, ridge=ridge)
  np.testing.assert_allclose(chosen, expected, rtol=1e-7)


def test_kliep_chooses_a_width_that_is_neither_least_nor_largest():
  source, target = map(jnp.float32, samples(60, 60, 1))
  form = quick(kliep_weights)
  gammas = jnp.array([1e-4, 1.0, 1e4])
  chosen = form(source, target, gamma=gammas)
  np.testing.assert_allclose(
    chosen, form(source, target, gamma=gammas[1]), rtol=1e-3, atol=1e-4
  )
  drawn = form(source, target, gamma=gammas, key=jax.random.key(0))
  np.testing.assert_allclose(np.mean(drawn), 1, rtol=1e-5)


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


@pytest.mark.parametrize("name", METHODS)
def test_a_mask_equals_a_slice(name):
  source, target = samples()
  spoiled = np.where(SOME[0][:, None], source, np.nan)
  with jax.enable_x64(True):
    masked = program(name)(spoiled, target, *SOME)
    labels = jnp.arange(16)[SOME[0]] % 2
    form = METHODS[name]
    if name == "target shift":
      form = functools.partial(
        target_shift_weights,
        source_labels=labels,
        num_classes=3,
        epsilon=0.3,
      )
    sliced = quick(form)(source[SOME[0]], target[SOME[1]])
  assert masked.dtype == np.float64
  masked = np.asarray(masked)
  np.testing.assert_array_equal(masked[~SOME[0]], 0)
  np.testing.assert_allclose(masked[SOME[0]], sliced, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_extremes_are_finite(name):
  source, target = map(jnp.float32, samples())
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


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_and_no_gradient(name):
  source, target = (jnp.asarray(x, jnp.bfloat16) for x in samples())
  weights = program(name)(source, target, *ALL)
  assert weights.dtype == jnp.float32
  wide = jnp.float32(source), jnp.float32(target)
  np.testing.assert_allclose(
    weights, program(name)(*wide, *ALL), rtol=1e-5, atol=1e-6
  )

  def loss(source, target):
    return jnp.sum(jnp.square(METHODS[name](source, target)))

  for gradient in quick(jax.grad(loss, (0, 1)))(*wide):
    np.testing.assert_array_equal(gradient, 0)
  _, change = quick(lambda *x: jax.jvp(loss, x, x))(*wide)
  assert change == 0


@pytest.mark.parametrize("name", ["kmm", "kliep", "discriminator"])
def test_devices_agree(name):
  source, target = map(jnp.float32, samples())
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
  weights = quick(sharded)(source, target, *where)
  np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-3)


def test_mapped_axes_agree():
  """Class weights and least squares, over an axis of `jax.vmap`."""
  source, target = map(jnp.float32, samples())
  labels = jnp.arange(16) % 2

  def run(source, target, labels, axis_name=None):
    shared = {"gamma": 0.5, "axis_name": axis_name}
    return (
      target_shift_weights(source, target, labels, num_classes=3, **shared),
      ulsif_weights(source, target, num_centers=8, **shared),
    )

  arguments = source, target, labels
  shards = [jnp.reshape(x, (8, -1, *x.shape[1:])) for x in arguments]
  form = jax.vmap(functools.partial(run, axis_name="batch"), axis_name="batch")
  for got, want in zip(
    quick(form)(*shards), quick(run)(*arguments), strict=True
  ):
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-3, atol=1e-3)


def test_one_program_for_all_hyper_parameters():
  source, target = map(jnp.float32, samples())
  traces = []

  @quick
  def run(gamma, ridge, alpha):
    traces.append(None)
    return ulsif_weights(source, target, gamma=gamma, ridge=ridge, alpha=alpha)

  first = run(0.5, 0.1, 0.1)
  assert not np.allclose(run(2.0, 0.5, 0.3), first)
  assert len(traces) == 1
  KMM(source, target, 1.0, 2.0, 0.5)
  before = KMM._cache_size()
  KMM(source, target, 0.3, 5.0, 0.1)
  assert KMM._cache_size() == before


def test_errors_name_the_argument():
  source, target = map(jnp.float32, samples())
  with pytest.raises(ValueError, match=r"target has shape \(24, 2\)"):
    kmm_weights(source, target[:, :2])
  with pytest.raises(ValueError, match="kernel is 'cubic'"):
    kmm_weights(source, target, kernel="cubic")
  with pytest.raises(ValueError, match=r"upper_bound is -1.0"):
    kmm_weights(source, target, upper_bound=-1.0)
  with pytest.raises(ValueError, match=r"upper_bound is 0.5; expected more"):
    kmm_weights(source, target, upper_bound=0.5, epsilon=0.1)
  with pytest.raises(ValueError, match=r"gamma is 0.0"):
    kliep_weights(source, target, gamma=0.0)
  with pytest.raises(ValueError, match=r"ridge has shape \(1, 2\)"):
    ulsif_weights(source, target, ridge=jnp.ones((1, 2)))
  with pytest.raises(ValueError, match=r"alpha is 1.5; expected a number in"):
    ulsif_weights(source, target, alpha=1.5)
  with pytest.raises(ValueError, match="folds is 1"):
    kliep_weights(source, target, gamma=[1.0, 2.0], folds=1)
  with pytest.raises(TypeError, match="source_labels has dtype float32"):
    target_shift_weights(source, target, jnp.ones(16), num_classes=2)
  with pytest.raises(ValueError, match="target is None; expected"):
    discriminator_weights(source)
