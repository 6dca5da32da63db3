"""CMD and M3SDA against NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdjax.adaptation import cmd_loss
from kdjax.adaptation import m3sda_loss


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


@pytest.mark.parametrize(("moments", "span"), [(1, 1.0), (5, 2.0), (3, 0.7)])
def test_central_moments_equal_numpy(moments, span):
  source, target = domains(6, 5)
  run = jax.jit(functools.partial(cmd_loss, moments=moments))
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      run(source, target, span=span),
      central(source, target, moments, span),
      rtol=1e-12,
    )


@pytest.mark.parametrize("form", ["central", "paper"])
@pytest.mark.parametrize("count", [1, 3])
def test_matching_equals_numpy(form, count):
  *sources, target = domains(6, 5, 7, 4)[-count - 1 :]
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      m3sda_loss(sources, target, form=form),
      matching(sources, target, form),
      rtol=1e-12,
    )


def test_gradients():
  with jax.enable_x64(True):
    a, b, c = map(jnp.asarray, domains(4, 3, 5))
    check_grads(jax.jit(cmd_loss), (a, b), order=1, modes=("fwd", "rev"))
    check_grads(
      jax.jit(lambda a, b, c: m3sda_loss([a, b], c)),
      (a, b, c),
      order=1,
      modes=("fwd", "rev"),
    )


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


@pytest.mark.parametrize("name", LOSSES)
def test_masks_and_extremes(name):
  loss = LOSSES[name]
  source, target = map(jnp.float32, domains(5, 4))

  @jax.jit
  def masked(source, target, where_source, where_target):
    return jax.value_and_grad(loss, (0, 1))(
      source, target, where_source=where_source, where_target=where_target
    )

  where, every = jnp.array([1, 0, 1, 1, 0], bool), jnp.ones(4, bool)
  spoiled = jnp.where(where[:, None], source, jnp.nan)
  value, gradients = masked(spoiled, target, where, every)
  expected, wanted = jax.jit(jax.value_and_grad(loss, (0, 1)))(
    source[where], target
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradients[0][where], wanted[0], rtol=1e-3)
  np.testing.assert_allclose(gradients[1], wanted[1], rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(gradients[0][~where], 0)

  value, gradients = masked(source, target, jnp.zeros(5, bool), every)
  assert value == 0
  assert not any(np.any(g) for g in gradients)

  all_of_source = jnp.ones(5, bool)
  same = jnp.ones((5, 3))
  for a, b, mask in (
    (1e4 * source, -1e4 * target, all_of_source),
    (0 * source, 0 * target, all_of_source),
    (same, same[:4], all_of_source),
    (source, target, jnp.arange(5) == 2),
  ):
    value, gradients = masked(a, b, mask, every)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)
  assert masked(same, same[:4], all_of_source, every)[0] == 0


def test_properties():
  source, target = map(jnp.float32, domains(5, 4))
  np.testing.assert_allclose(
    cmd_loss(2 * source, 2 * target, span=2.0),
    cmd_loss(source, target),
    rtol=1e-5,
  )
  np.testing.assert_allclose(cmd_loss(source, source[::-1]), 0, atol=1e-5)
  half = cmd_loss(source.astype(jnp.bfloat16), target.astype(jnp.bfloat16))
  assert half.dtype == jnp.float32
  traces = []

  @jax.jit
  def run(span):
    traces.append(None)
    return cmd_loss(source, target, span=span)

  for span in (1.0, 3.0):
    np.testing.assert_allclose(
      run(span), cmd_loss(source, target, span=span), rtol=1e-5
    )
  assert len(traces) == 1


def test_a_missing_source_is_left_out():
  *sources, target = map(jnp.float32, domains(5, 4, 6))
  np.testing.assert_allclose(
    m3sda_loss(sources, target, where_sources=[None, jnp.zeros(4, bool)]),
    m3sda_loss(sources[:1], target),
    rtol=1e-5,
  )


def test_errors_name_the_argument():
  source, target = map(jnp.float32, domains(5, 4))
  with pytest.raises(ValueError, match="moments is 0"):
    cmd_loss(source, target, moments=0)
  with pytest.raises(ValueError, match=r"span is -1\.0; expected"):
    cmd_loss(source, target, span=-1.0)
  with pytest.raises(ValueError, match="sources is empty"):
    m3sda_loss([], target)
  with pytest.raises(ValueError, match="target has 2 dims; expected 3"):
    m3sda_loss([source], target[:, :2])
  with pytest.raises(ValueError, match=r"sources\[1\] has shape \(4,\)"):
    m3sda_loss([source, target[:, 0]], target)
  with pytest.raises(ValueError, match="where_sources has 1 masks; expected 2"):
    m3sda_loss([source, source], target, where_sources=[None])
  with pytest.raises(ValueError, match="form is 'raw'"):
    m3sda_loss([source], target, form="raw")
