"""MixStyle, EFDMix and SagNet against NumPy, and the drawing of partners."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import (
  efdmix,
  mixstyle,
  sagnet_adversarial_loss,
  sagnet_randomize,
)
from kdjax.generalization._mixing_partners import sample_partners
from tests.laws import trace

PARTNERS = np.array([2, 0, 1, 4, 3], np.int32)
WEIGHTS = np.array([0.2, 1.0, 0.0, 0.7, 0.5])


def maps(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(5, 3, 4, 2)) * 2 + 1


def share(x):
  return WEIGHTS.reshape(-1, *[1] * (x.ndim - 1))


def moments(x):
  axes = (1, 2) if x.ndim == 4 else 1
  return x.mean(axes, keepdims=True), x.var(axes, ddof=1, keepdims=True)


def mixstyle_oracle(x, eps):
  mean, variance = moments(x)
  deviation, w = np.sqrt(variance + eps), share(x)
  scale = w * deviation + (1 - w) * deviation[PARTNERS]
  return (
    (x - mean) / deviation * scale
    + w * mean
    + (1 - w) * mean[PARTNERS]
  ), scale / deviation  # fmt: skip


def efdmix_oracle(x):
  flat, w = x.reshape(5, -1, 2), share(x)[..., 0]
  order = np.argsort(flat, 1)
  matched = np.zeros_like(flat)
  source = np.sort(flat[PARTNERS], 1)
  np.put_along_axis(matched, order, source, 1)
  return (w * flat + (1 - w) * matched).reshape(x.shape)


def sagnet_oracle(x, what, eps):
  mean, variance = moments(x)
  content, w = (x - mean) / np.sqrt(variance + eps), share(x)
  if what == "content":
    content = content[PARTNERS]
  else:
    mean = w * mean + (1 - w) * mean[PARTNERS]
    variance = w * variance + (1 - w) * variance[PARTNERS]
  return content * np.sqrt(variance + eps) + mean


def with_gradient(function):
  """The outputs, and the gradient of their sum, in one program."""

  def total(x, **options):
    mixed = function(None, x, partners=PARTNERS, weights=WEIGHTS, **options)
    return jnp.sum(mixed), mixed

  program = jax.value_and_grad(total, has_aux=True)
  return jax.jit(program, static_argnames="part")


MIXSTYLE, SAGNET = map(with_gradient, (mixstyle, sagnet_randomize))


@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_mixstyle_equals_numpy(epsilon):
  x = maps()
  with jax.enable_x64(True):
    (_, mixed), gradient = MIXSTYLE(x, epsilon=epsilon)
  expected, slope = mixstyle_oracle(x, epsilon)
  np.testing.assert_allclose(mixed, expected, rtol=1e-12)
  # Statistics have no gradient.
  np.testing.assert_allclose(gradient, np.broadcast_to(slope, x.shape))


def test_efdmix_equals_numpy():
  x = maps()
  with jax.enable_x64(True):
    (_, mixed), gradient = with_gradient(efdmix)(x)
  np.testing.assert_allclose(mixed, efdmix_oracle(x), rtol=1e-12)
  given = np.zeros(5)
  given[PARTNERS] += 1 - WEIGHTS
  expected = np.broadcast_to(1 + given[:, None, None, None], x.shape)
  np.testing.assert_allclose(gradient, expected)


@pytest.mark.parametrize("part", ["style", "content"])
@pytest.mark.parametrize("flat", [False, True])
def test_sagnet_equals_numpy(part, flat):
  x = maps().reshape(5, -1) if flat else maps()
  with jax.enable_x64(True):
    (_, mixed), gradient = SAGNET(x, part=part, epsilon=0.1)
  np.testing.assert_allclose(mixed, sagnet_oracle(x, part, 0.1), rtol=1e-12)
  # The mean passes a shift of the style's owner on, the content has none.
  owner = np.ones(5)
  if part == "style":
    owner = WEIGHTS.copy()
    owner[PARTNERS] += 1 - WEIGHTS
  total = np.asarray(gradient).reshape(5, -1).sum(1)
  np.testing.assert_allclose(total, owner * x[0].size, rtol=1e-10)


def test_adversarial_loss_is_the_cross_entropy_with_uniform_targets():
  logits = np.array([[1.0, 2.0, -1.0], [1e4, 0.0, 0.0]])
  logs = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
  np.testing.assert_allclose(
    jax.jit(sagnet_adversarial_loss)(np.float32(logits)),
    -logs.mean(1),
    rtol=1e-6,
  )
  masked = np.float32([[1.0, 2.0, -1.0, -np.inf]])
  value, gradient = jax.jit(
    jax.value_and_grad(lambda z: jnp.sum(sagnet_adversarial_loss(z)))
  )(masked)
  np.testing.assert_allclose(value, -logs[0].mean(), rtol=1e-6)
  assert np.all(np.isfinite(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("function", [mixstyle, efdmix, sagnet_randomize])
def test_a_weight_of_one_changes_nothing_and_extremes_are_finite(function):
  x = np.float32(maps())
  given = {"partners": PARTNERS, "weights": np.ones(5, np.float32)}
  program = jax.jit(functools.partial(function, None, **given))
  exact = function is not sagnet_randomize
  np.testing.assert_allclose(program(x), x, rtol=0 if exact else 1e-4)
  given["weights"] = np.float32(WEIGHTS)
  program = jax.jit(
    jax.value_and_grad(lambda x: jnp.sum(function(None, x, **given)))
  )
  for extreme in (0 * x, 1e4 * x, np.ones_like(x)):
    value, gradient = program(extreme)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
  assert np.all(np.isfinite(program(x[:, :1, :1])[0]))
  half = trace(function, None, x.astype(jnp.bfloat16), **given)
  assert half.dtype == jnp.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("function", [mixstyle, efdmix, sagnet_randomize])
def test_draws_come_from_the_key(function):
  x = np.float32(maps())
  program = jax.jit(chex.assert_max_traces(function, n=1))
  options = {} if function is sagnet_randomize else {"probability": 1.0}
  first, again, other = (
    program(jax.random.key(seed), x, **options) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  if options:
    kept = program(jax.random.key(0), x, probability=0.0)
    np.testing.assert_array_equal(kept, x)


@functools.partial(jax.jit, static_argnames="mix")
def many_partners(keys, domains, where, mix):
  draw = functools.partial(
    sample_partners,
    batch=domains.size,
    mix=mix,
    domains=domains,
    where=where,
  )
  return jax.vmap(draw)(keys)


@pytest.mark.slow
def test_partners_are_of_another_domain():
  domains = np.array([0, 0, 1, 2, 2, 2, 0, 1])
  where = np.array([1, 1, 1, 1, 1, 0, 1, 1], bool)
  keys = jax.random.split(jax.random.key(0), 400)
  crossed = np.asarray(many_partners(keys, domains, where, "crossdomain"))
  kept = crossed[:, where]
  assert np.all(domains[kept] != domains[where])
  assert np.all(where[kept])
  np.testing.assert_array_equal(crossed[:, 5], 5)
  # Each once for a domain, and all about as often.
  for drawn in crossed[:, domains == 0]:
    assert len(set(drawn)) == 3
  counts = np.bincount(crossed[:, 0], minlength=8)
  assert np.all(counts[[2, 3, 4, 7]] > 60)

  shuffled = np.asarray(many_partners(keys, domains, where, "random"))
  np.testing.assert_array_equal(np.sort(shuffled, 1), [np.arange(8)] * 400)
  np.testing.assert_array_equal(shuffled[:, 5], 5)
  alone = np.asarray(many_partners(keys, 0 * domains, where, "crossdomain"))
  np.testing.assert_array_equal(np.sort(alone, 1), [np.arange(8)] * 400)


@pytest.mark.slow
def test_a_large_domain_draws_again_and_halves_are_domains():
  domains = np.array([0, 0, 0, 0, 1])
  keys = jax.random.split(jax.random.key(0), 50)
  crossed = many_partners(keys, domains, np.ones(5, bool), "crossdomain")
  assert np.all(np.asarray(crossed)[:, :4] == 4)
  assert np.all(np.asarray(crossed)[:, 4] != 4)
  halves = jax.jit(
    functools.partial(sample_partners, batch=6, mix="crossdomain")
  )(jax.random.key(1))
  halves = np.asarray(halves)
  np.testing.assert_array_equal(np.sort(halves[:3]), [3, 4, 5])
  np.testing.assert_array_equal(np.sort(halves[3:]), [0, 1, 2])


def test_errors():
  x = np.float32(maps())
  with pytest.raises(ValueError, match="mixstyle: key is None"):
    mixstyle(None, x, weights=np.ones(5))
  with pytest.raises(ValueError, match="mix is 'across'"):
    efdmix(jax.random.key(0), x, mix="across")
  with pytest.raises(ValueError, match="part is 'both'"):
    sagnet_randomize(jax.random.key(0), x, part="both")
  with pytest.raises(ValueError, match="probability is 2"):
    mixstyle(jax.random.key(0), x, probability=2)
  with pytest.raises(ValueError, match=r"partners has shape \(4,\)"):
    mixstyle(None, x, partners=PARTNERS[:4], weights=np.ones(5))
