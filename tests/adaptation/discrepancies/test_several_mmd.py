"""Kernels and bandwidth rules of MMD, and what is built on them."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import generalization
from kdjax.adaptation import (
  Gaussian,
  Laplacian,
  Linear,
  Polynomial,
  jmmd,
  lmmd,
  mmd,
)
from tests.laws import slopes_agree, trace


def samples(n_source=6, n_target=5, dims=3, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.normal(size=(n_source, dims))
  return source, 1.3 * rng.normal(size=(n_target, dims)) + 0.5


def squared_distances(a, b):
  return np.sum((a[:, None] - b[None]) ** 2, -1)


def biased(source, target, kernel):
  return (
    kernel(source, source).mean()
    + kernel(target, target).mean()
    - 2 * kernel(source, target).mean()
  )


def lower_median(values):
  values = np.sort(values, axis=None)
  return values[(values.size - 1) // 2]


def scale_of(rule, source, target, root):
  power = 0.5 if root else 1.0
  if rule == "median":
    return lower_median(squared_distances(source, source) ** power)
  pooled = np.concatenate([source, target])
  n, values = len(pooled), squared_distances(pooled, pooled) ** power
  return values.sum() / (n * n if rule == "mean" else n * n - n)


RULES = ["mean", "distinct_mean", "median"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Gaussian, Laplacian])
def test_rules_equal_numpy(kind):
  source, target = samples()
  factors, weights = np.array([0.5, 2.0]), np.array([0.3, 1.1])

  def expected(rule):
    scale = scale_of(rule, source, target, kind is Laplacian)

    def kernel(a, b):
      squares = squared_distances(a, b)
      if kind is Gaussian:
        terms = [np.exp(-squares / (2 * f * scale)) for f in factors]
      else:
        terms = [np.exp(-np.sqrt(squares) / (f * scale)) for f in factors]
      return sum(w * t for w, t in zip(weights, terms, strict=True))

    return biased(source, target, kernel)

  @jax.jit
  def run(source, target):
    kernel = functools.partial(kind, bandwidth_factors=factors, weights=weights)
    return {
      rule: mmd(source, target, kernel=kernel(bandwidth_rule=rule))
      for rule in RULES
    }

  with jax.enable_x64(True):
    values = run(source, target)
  singles = run(np.float32(source), np.float32(target))
  for rule in RULES:
    want = expected(rule)
    np.testing.assert_allclose(values[rule], want, 1e-11, err_msg=rule)
    np.testing.assert_allclose(singles[rule], want, atol=1e-4, err_msg=rule)


def test_kernels_without_width_equal_numpy():
  source, target = samples()
  gap = source.mean(0) - target.mean(0)

  def polynomial(a, b):
    return (0.5 * a @ b.T + 1.5) ** 3

  @jax.jit
  def run(source, target):
    cubic = Polynomial(gamma=0.5, offset=1.5, degree=3)
    return [mmd(source, target, kernel=kernel) for kernel in (Linear(), cubic)]

  with jax.enable_x64(True):
    values = run(source, target)
  expected = gap @ gap, biased(source, target, polynomial)
  np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_disjoint_pairs_equal_numpy():
  source, target = samples(7, 7)

  def k(a, b):
    return np.exp(-0.3 * np.sum((a - b) ** 2, -1))

  s, t = source[:6], target[:6]
  expected = np.mean(
    k(s[::2], s[1::2])
    + k(t[::2], t[1::2])
    - k(s[::2], t[1::2])
    - k(s[1::2], t[::2])
  )
  form = jax.jit(functools.partial(mmd, estimator="disjoint", gammas=0.3))
  with jax.enable_x64(True):
    np.testing.assert_allclose(form(source, target), expected, rtol=1e-12)
  alone = form(np.float32(source[:1]), np.float32(target[:1]))
  assert alone == 0


@pytest.mark.parametrize(
  "kernel", [Laplacian(gammas=0.4), Polynomial(gamma=0.4)], ids=repr
)
def test_gradients(kernel):
  slopes_agree(functools.partial(mmd, kernel=kernel), samples(4, 3, 2, seed=1))


@pytest.mark.slow
def test_a_kernel_is_a_pytree():
  """Its numbers are arguments of a program, and of a gradient."""
  source, target = map(np.float32, samples())

  @jax.jit
  def run(kernel):
    return jax.value_and_grad(lambda k: mmd(source, target, kernel=k))(kernel)

  value, slope = run(Gaussian(gammas=[0.3, 1.0]))
  np.testing.assert_allclose(
    value, jax.jit(mmd)(source, target, gammas=[0.3, 1.0]), rtol=1e-6
  )
  assert np.all(np.asarray(slope.gammas) != 0)
  shorts = {"gammas": [0.5, None], "bandwidths": [None, 0.7]}
  kernels = [Gaussian(gammas=0.5), Gaussian(bandwidths=0.7)]
  pair = jax.tree.map(np.float32, layers())
  np.testing.assert_allclose(
    *jax.jit(lambda *x: (jmmd(*x, **shorts), jmmd(*x, kernel=kernels)))(*pair),
    rtol=1e-6,
  )


def test_equal_points_have_finite_gradients():
  source, target = map(np.float32, samples())
  run = jax.jit(
    jax.value_and_grad(
      functools.partial(mmd, kernel=Laplacian(bandwidth_rule="median")),
      (0, 1),
    )
  )
  same = np.broadcast_to(source[:1], target.shape)
  for a, b in ((source[:5], source[:5]), (same, same), (1e4 * same, -same)):
    value, gradients = run(a, b)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradients))
  np.testing.assert_allclose(run(same, same)[0], 0, atol=1e-5)


def layers(n_source=6, n_target=6, seed=0):
  features = samples(n_source, n_target, 3, seed)
  outputs = samples(n_source, n_target, 2, seed + 1)
  return [features[0], outputs[0]], [features[1], outputs[1]]


def joint_oracle(source, target, estimator, factors=(0.5, 2.0), sigma=0.7):
  """Kernels of the first layer, one of fixed width of the second."""
  pooled = [np.concatenate(pair) for pair in zip(source, target, strict=True)]
  first, second = (squared_distances(x, x) for x in pooled)
  mean = first.mean()
  kernel = sum(np.exp(-first / (2 * f * mean)) for f in factors)
  kernel = kernel * np.exp(-second / (2 * sigma**2))
  n, m = len(source[0]), len(target[0])
  ss, tt, st = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
  if estimator == "biased":
    return ss.mean() + tt.mean() - 2 * st.mean()
  if estimator == "unbiased":
    ss, tt = ss[~np.eye(n, dtype=bool)], tt[~np.eye(m, dtype=bool)]
    return ss.sum() / (n * n - n) + tt.sum() / (m * m - m) - 2 * st.mean()
  i, j = np.arange(n), np.roll(np.arange(n), -1)
  return np.mean(ss[i, j] + tt[i, j] - st[i, j] - st[j, i])


JOINT = {"bandwidth_factors": [[0.5, 2.0], None], "bandwidths": [None, 0.7]}


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_joint_equals_numpy(estimator):
  source, target = layers(6, 6 if estimator == "linear" else 4)
  run = jax.jit(functools.partial(jmmd, estimator=estimator, **JOINT))
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      run(source, target), joint_oracle(source, target, estimator), rtol=1e-11
    )


@pytest.mark.slow
def test_joint_masks_and_limits():
  source, target = jax.tree.map(np.float32, layers(6, 5))
  ones = np.ones((6, 2), np.float32), np.ones((5, 2), np.float32)

  @jax.jit
  def limits(source, target):
    constant = [source[0], ones[0]], [target[0], ones[1]]
    return (
      (jmmd(source[:1], target[:1]), jmmd(*constant, gammas=[0.5, 0.5])),
      (
        mmd(source[0], target[0]),
        mmd(source[0], target[0], gammas=0.5),
      ),
    )

  # One layer is MMD; a constant layer changes nothing.
  values, expected = limits(source, target)
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  where = np.array([1, 0, 1, 1, 0, 1], bool)

  @jax.jit
  def masked(source, where):
    return jax.value_and_grad(
      lambda s: jmmd(s, target, where_source=where, **JOINT)
    )(source)

  spoiled = jax.tree.map(lambda x: np.where(where[:, None], x, np.nan), source)
  value, gradients = masked(spoiled, where)
  expected, wanted = jax.jit(
    jax.value_and_grad(lambda s: jmmd(s, target, **JOINT))
  )([x[where] for x in source])
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for gradient, want in zip(gradients, wanted, strict=True):
    gradient = np.asarray(gradient)
    np.testing.assert_allclose(gradient[where], want, atol=1e-6)
    np.testing.assert_array_equal(gradient[~where], 0)
  value, gradients = masked(source, np.zeros(6, bool))
  assert value == 0
  assert not any(np.any(g) for g in gradients)


def local_oracle(source, target, labels, probabilities, gamma):
  """Class by class, in feature space, as the paper has it."""
  predicted = probabilities.argmax(1)
  values = []
  for c in set(labels) & set(predicted):
    a = (labels == c) / np.sum(labels == c)
    b = probabilities[:, c] / probabilities[:, c].sum()
    ss, tt, st = (
      np.exp(-gamma * squared_distances(x, y))
      for x, y in ((source, source), (target, target), (source, target))
    )
    values.append(a @ ss @ a + b @ tt @ b - 2 * a @ st @ b)
  return np.mean(values)


@pytest.mark.slow
def test_local_equals_numpy():
  source, target = samples(6, 5, seed=3)
  labels = np.array([0, 1, 1, 3, 0, 3])
  rng = np.random.default_rng(2)
  probabilities = rng.dirichlet(np.ones(5), 5)
  probabilities[:2] = np.eye(5)[[1, 0]] * 0.9 + 0.02
  expected = local_oracle(source, target, labels, probabilities, 0.4)
  run = functools.partial(lmmd, gammas=0.4)
  with jax.enable_x64(True):
    value = jax.jit(run)(source, target, labels, probabilities)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  slopes_agree(lambda s, t: run(s, t, labels, probabilities), (source, target))


@pytest.mark.slow
def test_a_row_is_at_no_distance_from_itself():
  """Narrow kernels would see what rounding leaves of it."""
  rows = np.float32(20 * np.random.default_rng(0).normal(size=(2, 12, 64)))

  @jax.jit
  def run(source, target):
    one_class = np.zeros(12, int), np.ones((12, 1), np.float32)
    options = {"gammas": 1000.0}
    return (
      mmd(source, target, **options),
      mmd(source, target, chunk_size=5, **options),
      lmmd(source, target, *one_class, **options),
      generalization.mmd(jnp.stack([source, target]), **options),
    )

  for value in run(*rows):
    np.testing.assert_allclose(value, 2 / 12, rtol=1e-6)


@pytest.mark.slow
def test_local_masks_and_limits():
  source, target = map(np.float32, samples(6, 5))
  labels = np.array([0, 1, 1, 3, 0, 3])
  probabilities = np.full((5, 5), 0.01, np.float32) + 0.95 * np.float32(
    np.eye(5)
  )

  @jax.jit
  def masked(source, probabilities, where):
    return jax.value_and_grad(lmmd, (0, 3))(
      source, target, labels, probabilities, where_source=where
    )

  where = np.array([1, 0, 1, 1, 0, 1], bool)
  spoiled = np.where(where[:, None], source, np.nan)
  value, (gradient, of_weights) = masked(spoiled, probabilities, where)

  @jax.jit
  def others(source, target):
    """Of the rows that are kept; of one class alone, and its biased MMD."""
    return (
      lmmd(source[where], target, labels[where], probabilities),
      lmmd(source, target, 0 * labels, np.ones((5, 1), np.float32)),
      mmd(source, target, kernel=Gaussian(bandwidth_rule="distinct_mean")),
    )

  sliced, one_class, expected = others(source, target)
  np.testing.assert_allclose(value, sliced, rtol=1e-5)
  np.testing.assert_allclose(one_class, expected, rtol=1e-5)
  np.testing.assert_array_equal(np.asarray(gradient)[~where], 0)
  assert not np.any(of_weights)
  # No class in common, or nothing at all.
  other = np.tile(np.eye(5, dtype=np.float32)[4], (5, 1))
  for p, keep in ((other, where), (probabilities, np.zeros(6, bool))):
    value, (gradient, _) = masked(source, p, keep)
    assert value == 0
    assert not np.any(gradient)


def test_one_program_for_all_widths():
  source, target = layers()
  rows = jax.tree.map(np.float32, (source, target))

  @jax.jit
  @functools.partial(chex.assert_max_traces, n=1)
  def run(factor, sigma):
    return jmmd(
      *rows,
      bandwidth_factors=[factor, None],
      bandwidths=[None, sigma],
    )

  for factor, sigma in ((0.5, 0.9), (2.0, 0.4)):
    expected = joint_oracle(source, target, "biased", [factor], sigma)
    np.testing.assert_allclose(run(factor, sigma), expected, rtol=1e-5)


def test_errors_name_the_argument():
  source, target = jax.tree.map(np.float32, layers(4, 3))
  pair = source[0], target[0]
  with pytest.raises(ValueError, match="source has 2 layers and target 1"):
    trace(jmmd, source, target[:1])
  with pytest.raises(
    ValueError, match=r"bandwidths is .*; expected a list of 2"
  ):
    trace(jmmd, source, target, bandwidths=[0.9])
  with pytest.raises(
    ValueError, match=r"in layer 1, target has shape \(3, 1\)"
  ):
    trace(jmmd, source, [target[0], target[1][:, :1]])
  with pytest.raises(ValueError, match="layer 1 has 2 examples; expected 4"):
    trace(jmmd, [source[0], source[1][:2]], target)
  with pytest.raises(ValueError, match="target has 3 rows; the disjoint"):
    trace(mmd, source[0], target[0], estimator="disjoint")
  with pytest.raises(TypeError, match="kernel is 'cosine'"):
    inspect.unwrap(mmd)(source[0], target[0], kernel="cosine")
  with pytest.raises(ValueError, match="bandwidth_rule is 'mode'"):
    trace(mmd, *pair, kernel=Gaussian(bandwidth_rule="mode"))
  with pytest.raises(ValueError, match="got kernel and bandwidths; expected"):
    trace(mmd, *pair, kernel=Linear(), bandwidths=1.0)
  kernel = Gaussian(gammas=[1.0, 2.0], weights=[1.0, 2.0, 3.0])
  with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
    trace(mmd, *pair, kernel=kernel)
  with pytest.raises(ValueError, match="expected a list of 2 entries"):
    trace(jmmd, source, source, kernel=[Gaussian()])
  with pytest.raises(ValueError, match=r"source_labels has shape \(2,\)"):
    trace(lmmd, source[0], target[0], np.zeros(2, int), target[1])


def test_one_array_is_no_sequence_of_layers():
  with pytest.raises(
    TypeError, match=r"source is a \w+; expected a sequence of"
  ):
    inspect.unwrap(jmmd)(np.ones((4, 3)), np.ones((4, 3)))
