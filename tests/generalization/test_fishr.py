"""Fishr against the gradients of single examples, by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generalization import FishrState, fishr_init, fishr_penalty
from tests import laws, oracles

FISHR = jax.jit(fishr_penalty, static_argnames="bias")
RNG = np.random.default_rng(0)
DOMAINS, DIMS, CLASSES = 2, 3, 4
WEIGHT = RNG.normal(size=(DIMS, CLASSES)).astype(np.float32)
BIAS = RNG.normal(size=CLASSES).astype(np.float32)
FEATURES = RNG.normal(size=(16, DOMAINS * DIMS)).astype(np.float32) + 0.5
SAME = np.zeros((16, 1), np.float32)
LABELS = RNG.integers(0, CLASSES, (16, DOMAINS))


def domains_first(x):
  return jnp.moveaxis(x, 1, 0)


def penalty(rows, _, labels, where=None, **options):
  features = domains_first(rows.reshape(-1, DOMAINS, DIMS))
  dtype = jnp.promote_types(features.dtype, jnp.float32)
  logits = features.astype(dtype) @ WEIGHT.astype(dtype) + BIAS[None, None]
  if where is not None:
    where = jnp.broadcast_to(where[None], (DOMAINS, *where.shape))
  shape = (DOMAINS, CLASSES)
  old = FishrState(
    jnp.full((*shape, DIMS), 0.3, dtype), jnp.full(shape, 0.2, dtype)
  )
  return fishr_penalty(
    features, logits, domains_first(labels), old, where=where, **options
  ).penalty


CASES = {
  "fishr": laws.Case(
    penalty,
    (FEATURES, SAME, LABELS),
    {"decay": 0.8},
    coupled=True,
    unused=(1,),
    extremes=(0.0, 1e-4, 1e3),
  )
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def sample(batch=7, domains=3, seed=7):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(domains, batch, DIMS)) + 1.0
  labels = rng.integers(0, CLASSES, (domains, batch))
  return features, labels


@jax.jit
def single_gradients(params, features, labels):
  def loss(params, feature, label):
    logits = feature @ params[0] + params[1]
    return jax.nn.logsumexp(logits) - logits[label]

  gradient = jax.grad(loss)
  by_example = jax.vmap(jax.vmap(gradient, (None, 0, 0)), (None, 0, 0))
  return by_example(params, features, labels)


def oracle(features, labels, keep, old, decay):
  """With each example's gradient by autodiff, `[batch, parameters]`."""
  params = np.float64(WEIGHT), np.float64(BIAS)
  by_parameter = jax.device_get(single_gradients(params, features, labels))
  averages, states = [], []
  for *pair, rows, state in zip(*by_parameter, keep, old, strict=True):
    by_weight, by_bias = (x[rows] for x in pair)
    by_weight = np.moveaxis(by_weight, 2, 1).reshape(rows.sum(), -1)
    variance = np.var(np.concatenate([by_weight, by_bias], 1), 0)
    states.append(decay * state + (1 - decay) * variance)
    averages.append(states[-1] / (1 - decay))
  gaps = np.array(averages) - np.mean(averages, 0)
  return np.mean(gaps**2), np.array(states)


@pytest.mark.parametrize("masked", [False, True])
def test_equals_single_gradients_over_steps(masked):
  with jax.enable_x64(True):
    state, old = None, np.zeros((3, CLASSES * (DIMS + 1)))
    for seed in (7, 5):
      features, labels = sample(seed=seed)
      keep = np.ones(labels.shape, bool)
      if masked:
        keep = np.arange(7)[None] < seed - np.arange(3)[:, None]
      logits = features @ np.float64(WEIGHT) + np.float64(BIAS)
      value, state = FISHR(
        features, logits, labels, state, decay=0.7, where=keep
      )
      expected, old = oracle(features, labels, keep, old, 0.7)
      np.testing.assert_allclose(value, expected, rtol=1e-9)
      got = np.concatenate([state.weight.reshape(3, -1), state.bias], 1)
      np.testing.assert_allclose(got, old, rtol=1e-9)


@pytest.mark.slow
def test_gradient_does_not_depend_on_the_decay_and_spares_the_state():
  features, labels = sample()
  features = np.float32(features)

  @jax.jit
  def program(features, state, decay):
    def loss(features, state):
      logits = features @ WEIGHT + BIAS[None, None]
      result = fishr_penalty(features, logits, labels, state, decay=decay)
      return result.penalty, result.state

    gradients, state = jax.grad(loss, (0, 1), has_aux=True)(features, state)
    through_state = jax.grad(lambda x: jnp.sum(loss(x, state)[1].weight))(
      features
    )
    return gradients, state, through_state

  start = fishr_init(3, CLASSES, DIMS)
  start = jax.tree.map(np.float32, start)
  (at_half, _), state, _ = program(features, start, 0.5)
  (later, _), _, _ = program(features, start, 0.95)
  np.testing.assert_allclose(at_half, later, rtol=1e-4, atol=1e-6)
  (_, by_state), _, through_state = program(features, state, 0.5)
  assert not any(np.any(leaf) for leaf in by_state)
  assert not np.any(through_state)


def test_small_variances_keep_their_digits():
  """Where E[x^2] - E[x]^2 would be rounding alone."""
  rng = np.random.default_rng(3)
  features = np.float32(100 + 0.01 * rng.normal(size=(2, 64, 2)))
  logits = np.float32(rng.normal(size=(2, 1, 3)) + np.zeros((2, 64, 1)))
  labels = np.zeros((2, 64), int)
  _, state = FISHR(features, logits, labels, decay=0.0)
  residuals = np.exp(oracles.log_softmax(logits)) - np.eye(3)[labels]
  grads = residuals[:, :, :, None] * np.float64(features)[:, :, None]
  np.testing.assert_allclose(state.weight, np.var(grads, 1), rtol=1e-3)


@pytest.mark.slow
def test_absent_domain_bias_and_equal_domains():
  features, labels = sample()
  features = np.float32(features)
  logits = features @ WEIGHT + BIAS
  where = np.ones(labels.shape, bool)
  _, old = FISHR(features, logits, labels, decay=0.5, where=where)
  where[1] = False
  value, new = FISHR(features, logits, labels, old, decay=0.5, where=where)
  np.testing.assert_array_equal(new.weight[1], old.weight[1])

  @jax.jit
  def others(features, logits, labels, old):
    """Without the absent domain, without biases, of equal domains."""
    rest = np.array([0, 2])
    alone, equal = (
      jax.tree.map(lambda x, i=i: x[i], (features, logits, labels))
      for i in (rest, 0 * rest)
    )
    state = jax.tree.map(lambda x: x[rest], old)
    return (
      fishr_penalty(*alone, state, decay=0.5).penalty,
      fishr_penalty(features, logits, labels, bias=False),
      fishr_penalty(*equal).penalty,
    )

  alone, (without, state), equal = others(features, logits, labels, old)
  np.testing.assert_allclose(value, alone, rtol=1e-5)
  assert state.bias is None
  assert without > 0
  np.testing.assert_allclose(equal, 0, atol=1e-12)


def test_errors():
  features, labels = sample()
  logits = features @ WEIGHT
  with pytest.raises(ValueError, match=r"decay is 1\.0"):
    fishr_penalty(features, logits, labels, decay=1.0)
  with pytest.raises(ValueError, match=r"logits has shape \(3, 6, 4\)"):
    fishr_penalty(features, logits[:, :6], labels)
  state = fishr_init(3, CLASSES, DIMS)
  with pytest.raises(ValueError, match="state has shapes"):
    laws.trace(fishr_penalty, features, logits, labels, state, bias=False)
