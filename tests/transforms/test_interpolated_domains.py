"""Generated domains: their points, pairs and mass, and that they lead over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import gradual_self_training
from kdjax.transforms import interpolate_domains
from tests.laws import trace

RUN = jax.jit(
  interpolate_domains,
  static_argnames=("num_steps", "num_pairs", "scale", "cost", "num_iterations"),
)


def samples(n_source=5, n_target=4, dims=3):
  rng = np.random.default_rng(0)
  source = rng.normal(size=(n_source, dims))
  return source, 1.3 * rng.normal(size=(n_target, dims)) + 0.8


def plan_of(source, target, epsilon):
  """The entropic plan by its definition; epsilon is absolute."""
  costs = np.sum((source[:, None] - target[None]) ** 2, -1)
  kernel = np.exp(-costs / epsilon)
  v = np.ones(len(target))
  for _ in range(2000):
    u = 1 / (len(source) * kernel @ v)
    v = 1 / (len(target) * u @ kernel)
  return u[:, None] * kernel * v


@pytest.mark.slow
def test_points_lie_on_the_heaviest_pairs_of_the_plan():
  source, target = samples()
  plan = plan_of(source, target, 0.4)
  options = {"num_steps": 4, "scale": "absolute", "num_iterations": 300}
  with jax.enable_x64(True):
    found = RUN(source, target, epsilon=0.4, **options)
  # As many pairs as there are rows, by default.
  order = np.argsort(-plan.ravel())[:9]
  first, second = np.divmod(order, 4)
  np.testing.assert_array_equal(found.source, first)
  np.testing.assert_array_equal(found.target, second)
  np.testing.assert_allclose(found.mass, plan.ravel()[order], rtol=1e-8)
  for k in range(4):
    share = (k + 1) / 4
    expected = (1 - share) * source[first] + share * target[second]
    np.testing.assert_allclose(found.points[k], expected, rtol=1e-12)
  single = RUN(np.float32(source), np.float32(target), epsilon=0.4, **options)
  np.testing.assert_array_equal(single.source, first)
  np.testing.assert_allclose(single.mass, found.mass, rtol=1e-3)
  np.testing.assert_allclose(single.points, found.points, atol=1e-5)


def test_epsilon_is_a_share_of_the_mean_cost():
  source, target = samples()
  mean = np.mean(np.sum((source[:, None] - target[None]) ** 2, -1))
  form = functools.partial(RUN, source, target, num_steps=1, num_iterations=300)
  with jax.enable_x64(True):
    relative = form(epsilon=0.1)
    absolute = form(epsilon=0.1 * mean, scale="absolute")
  np.testing.assert_allclose(relative.mass, absolute.mass, rtol=1e-8)


def test_a_shifted_sample_moves_along_its_shift():
  source, _ = samples(8)
  shift = np.array([3.0, -2.0, 0.5])
  turned = np.random.default_rng(1).permutation(8)
  with jax.enable_x64(True):
    found = RUN(
      source,
      (source + shift)[turned],
      num_steps=5,
      num_pairs=8,
      epsilon=1e-3,
      num_iterations=2000,
    )
  # The optimal map of a shift is the shift; every row goes its way, whole.
  np.testing.assert_array_equal(np.sort(found.source), np.arange(8))
  np.testing.assert_array_equal(turned[found.target], found.source)
  np.testing.assert_allclose(found.mass, 1 / 8, rtol=1e-5)
  for k in range(5):
    expected = source[found.source] + (k + 1) / 5 * shift
    np.testing.assert_allclose(found.points[k], expected, atol=1e-12)


@pytest.fixture(scope="module")
def masked():
  """Points, and their derivatives on the way to the target, under masks."""

  @jax.jit
  def run(source, target, where_source, where_target):
    def half_way(source, target):
      found = interpolate_domains(
        source,
        target,
        num_steps=2,
        num_pairs=6,
        where_source=where_source,
        where_target=where_target,
      )
      return jnp.sum(found.points[0]), found

    return jax.value_and_grad(half_way, (0, 1), has_aux=True)(source, target)

  return run


@pytest.mark.slow
def test_masked_rows_are_in_no_pair_with_mass(masked):
  source, target = map(np.float32, samples(6, 4))
  keep, every = np.arange(6) < 3, np.ones(4, bool)
  spoiled = np.where(keep[:, None], source, np.nan)
  (_, found), gradients = masked(spoiled, target, keep, every)
  alone = RUN(source[:3], target, num_steps=2, num_pairs=6)
  np.testing.assert_allclose(found.mass, alone.mass, rtol=1e-4)
  np.testing.assert_allclose(found.points, alone.points, rtol=1e-5)
  np.testing.assert_array_equal(gradients[0][3:], 0)
  # More pairs than there are: what is too much has no mass.
  (_, found), _ = masked(source, target, np.arange(6) == 1, np.arange(4) == 2)
  np.testing.assert_allclose(found.mass, [1, 0, 0, 0, 0, 0], rtol=1e-5)
  assert (found.source[0], found.target[0]) == (1, 2)
  (_, found), gradients = masked(source, target, np.zeros(6, bool), every)
  assert not np.any(found.mass)
  assert not np.any(gradients[0])


def test_gradients_take_the_pairs_as_given(masked):
  source, target = map(np.float32, samples(6, 4))
  every = np.ones(6, bool), np.ones(4, bool)
  (_, found), gradients = masked(source, target, *every)
  for gradient, rows in zip(
    gradients, (found.source, found.target), strict=True
  ):
    counts = np.bincount(rows, minlength=len(gradient))
    expected = np.repeat(counts[:, None] / 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
  for a, b in ((1e4 * source, -1e4 * target), (0 * source, 0 * target)):
    (value, found), gradients = masked(a, b, *every)
    assert np.isfinite(value)
    assert np.all(np.isfinite(found.mass))
    assert all(np.all(np.isfinite(g)) for g in gradients)


@pytest.mark.slow
def test_half_precision_and_traced_epsilon():
  source, target = samples()
  half = (jnp.asarray(x, jnp.bfloat16) for x in (source, target))
  assert RUN(*half, num_steps=2).points.dtype == jnp.float32
  before = RUN._cache_size()
  source, target = np.float32(source), np.float32(target)
  masses = [
    RUN(source, target, num_steps=2, epsilon=x).mass for x in (0.05, 0.5)
  ]
  assert RUN._cache_size() == before + 1
  assert masses[0][0] > masses[1][0]


@pytest.mark.slow
def test_a_classifier_that_follows_arrives_where_one_step_does_not():
  def fit(means, x, labels, mask, key):
    del key
    member = jax.nn.one_hot(labels, 2) * mask[:, None]
    return member.T @ x / member.sum(0)[:, None]

  def predict(means, x):
    return -jnp.sum((x[:, None] - means[None]) ** 2, -1)

  rng = np.random.default_rng(0)
  labels = np.arange(40) % 2
  means = np.array([[-1.0, 0.0], [1.0, 0.0]])
  source = np.float32(means[labels] + 0.2 * rng.normal(size=(40, 2)))
  # Class 0 goes to where class 1 was.
  target = np.float32(source[::-1] + np.array([2.5, 0.0]))

  @jax.jit
  def follow(means, blocks):
    return predict(
      gradual_self_training(
        jax.random.key(0), means, blocks, fit, predict
      ).variables,
      target,
    )

  found = RUN(source, target, num_steps=5, num_pairs=40)
  start = jnp.float32(means)
  steps = np.argmax(follow(start, found.points), -1)
  at_once = np.argmax(follow(start, target[None]), -1)
  assert np.mean(steps == labels[::-1]) == 1
  assert np.mean(at_once == labels[::-1]) < 0.8


def test_errors_name_the_argument():
  source, target = samples()
  form = functools.partial(trace, interpolate_domains, source, target)
  with pytest.raises(ValueError, match="num_steps is 0; expected"):
    form(num_steps=0)
  with pytest.raises(TypeError, match=r"num_steps is True"):
    form(num_steps=True)
  with pytest.raises(ValueError, match="num_pairs is 21; expected at most 20"):
    form(num_steps=2, num_pairs=21)
  with pytest.raises(ValueError, match="epsilon is 0; expected"):
    form(num_steps=2, epsilon=0)
  with pytest.raises(ValueError, match="cost is 'l1'"):
    form(num_steps=2, cost="l1")
  with pytest.raises(ValueError, match="scale is 'max'"):
    form(num_steps=2, scale="max")
  with pytest.raises(ValueError, match=r"target"):
    interpolate_domains(source, target[:, :2], num_steps=2)
