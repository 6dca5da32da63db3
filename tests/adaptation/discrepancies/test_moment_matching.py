"""CMD and M3SDA against NumPy."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.adaptation import cmd_loss, m3sda_loss
from tests.laws import computed_in_float32, slopes_agree, trace


def domains(*sizes, dims=3):
  rng = np.random.default_rng(0)
  return [
    (1 + i / 2) * rng.normal(size=(n, dims)) + i / 3
    for i, n in enumerate(sizes)
  ]


def norm(x):
  return np.sqrt(np.sum(x**2))


def central(source, target, moments, span):
  means = source.mean(0), target.mean(0)
  value = norm(means[0] - means[1]) / span
  for k in range(2, moments + 1):
    a, b = (
      ((x - m) ** k).mean(0)
      for x, m in zip((source, target), means, strict=True)
    )
    value += norm(a - b) / span**k
  return value


def matching(sources, target, form):
  if form == "central":
    order = [lambda x: x.mean(0), lambda x: x.var(0, ddof=1)]
    pairs = list(itertools.combinations([*sources, target], 2))
    return (
      sum(np.mean([norm(m(a) - m(b)) for a, b in pairs]) for m in order) / 2
    )
  value = 0
  for k in (1, 2):
    moments = [(x**k).mean(0) for x in sources]
    value += np.mean([norm(m - (target**k).mean(0)) for m in moments])
    pairs = list(itertools.combinations(moments, 2))
    value += np.mean([norm(a - b) for a, b in pairs]) if pairs else 0
  return value


def test_central_moments_equal_numpy():
  source, target = domains(6, 5)
  cases = (1, 1.0), (5, 2.0), (3, 0.7)

  @jax.jit
  def run(source, target):
    return [cmd_loss(source, target, num_moments=k, span=s) for k, s in cases]

  with jax.enable_x64(True):
    values = run(source, target)
  expected = [central(source, target, *case) for case in cases]
  np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 3])
def test_matching_equals_numpy(count):
  *sources, target = domains(6, 5, 7, 4)[-count - 1 :]
  forms = "central", "paper"

  @jax.jit
  def run(sources, target):
    return [m3sda_loss(sources, target, form=form) for form in forms]

  with jax.enable_x64(True):
    values = run(sources, target)
  expected = [matching(sources, target, form) for form in forms]
  np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.slow
def test_gradients():
  a, b, c = (x[::-1] for x in domains(4, 3, 5))
  slopes_agree(cmd_loss, (a, b))
  slopes_agree(lambda a, b, c: m3sda_loss([a, b], c), (a, b, c))


def of_two(form):
  def loss(source, target, *, where_source=None, where_target=None):
    return m3sda_loss(
      [source],
      target,
      form=form,
      where_sources=[where_source],
      where_target=where_target,
    )

  return loss


LOSSES = {
  "cmd": cmd_loss,
  "m3sda": of_two("central"),
  "m3sda paper": of_two("paper"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_masks_and_extremes(name):
  loss = LOSSES[name]
  source, target = map(np.float32, domains(5, 4))

  @jax.jit
  def masked(source, target, where_source, where_target):
    return jax.value_and_grad(loss, (0, 1))(
      source, target, where_source=where_source, where_target=where_target
    )

  where, every = np.array([1, 0, 1, 1, 0], bool), np.ones(4, bool)
  spoiled = np.where(where[:, None], source, np.nan)
  value, gradients = masked(spoiled, target, where, every)
  expected, wanted = jax.jit(jax.value_and_grad(loss, (0, 1)))(
    source[where], target
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  gradient = np.asarray(gradients[0])
  np.testing.assert_allclose(gradient[where], wanted[0], rtol=1e-3)
  np.testing.assert_allclose(gradients[1], wanted[1], rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(gradient[~where], 0)

  value, gradients = masked(source, target, np.zeros(5, bool), every)
  assert value == 0
  assert not any(np.any(g) for g in gradients)

  all_of_source = np.ones(5, bool)
  same = np.ones((5, 3), np.float32)
  for a, b, mask in (
    (1e4 * source, -1e4 * target, all_of_source),
    (0 * source, 0 * target, all_of_source),
    (same, same[:4], all_of_source),
    (source, target, np.arange(5) == 2),
  ):
    value, gradients = masked(a, b, mask, every)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)
  assert masked(same, same[:4], all_of_source, every)[0] == 0


def test_properties():
  source, target = map(np.float32, domains(5, 4))
  run = jax.jit(chex.assert_max_traces(cmd_loss, n=1))
  value = run(source, target, span=1.0)
  doubled = run(2 * source, 2 * target, span=2.0)
  np.testing.assert_allclose(doubled, value, rtol=1e-5)
  for span in (1.0, 3.0):
    np.testing.assert_allclose(
      run(source, target, span=span),
      central(*domains(5, 4), 5, span),
      rtol=1e-5,
    )

  same = jax.jit(cmd_loss)(source, source[::-1])
  np.testing.assert_allclose(same, 0, atol=1e-5)
  half = computed_in_float32(cmd_loss, source, target)
  assert half.dtype == jnp.float32


def test_a_missing_source_is_left_out():
  *sources, target = map(np.float32, domains(5, 4, 6))

  @jax.jit
  def run(sources, target):
    masks = [None, np.zeros(4, bool)]
    return (
      m3sda_loss(sources, target, where_sources=masks),
      m3sda_loss(sources[:1], target),
    )

  np.testing.assert_allclose(*run(sources, target), rtol=1e-5)


def test_errors_name_the_argument():
  source, target = map(np.float32, domains(5, 4))
  with pytest.raises(ValueError, match="moments is 0"):
    trace(cmd_loss, source, target, num_moments=0)
  with pytest.raises(ValueError, match=r"span is -1\.0; expected"):
    trace(cmd_loss, source, target, span=-1.0)
  with pytest.raises(ValueError, match="sources is empty"):
    trace(m3sda_loss, [], target)
  with pytest.raises(ValueError, match="target has 2 dims; expected 3"):
    trace(m3sda_loss, [source], target[:, :2])
  with pytest.raises(ValueError, match=r"sources\[1\] has shape \(4,\)"):
    trace(m3sda_loss, [source, target[:, 0]], target)
  with pytest.raises(ValueError, match="where_sources has 1 masks; expected 2"):
    trace(m3sda_loss, [source, source], target, where_sources=[None])
  with pytest.raises(ValueError, match="form is 'raw'"):
    trace(m3sda_loss, [source], target, form="raw")
