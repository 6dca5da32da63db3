"""EWC and SI against their update rules in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.continual import (
  ewc_fisher,
  ewc_penalty,
  si_consolidate,
  si_init,
  si_penalty,
  si_update,
)
from tests import laws

RNG = np.random.default_rng(0)
PARAMS = {
  "a": RNG.normal(size=(3, 2)).astype(np.float32),
  "b": RNG.normal(size=2).astype(np.float32),
}
INPUTS = RNG.normal(size=(16, 3)).astype(np.float32)
LABELS = RNG.integers(0, 2, 16)


def log_likelihood(params, example):
  x, y = example
  return jax.nn.log_softmax(x @ params["a"] + params["b"])[y]


def fisher_in_numpy(keep, weighted=True):
  """Per example: likelihood times the squared gradient, as mammoth."""
  total = {k: np.zeros_like(v) for k, v in PARAMS.items()}
  for x, y in zip(INPUTS[keep], LABELS[keep], strict=True):
    z = x @ PARAMS["a"] + PARAMS["b"]
    p = np.exp(z) / np.exp(z).sum()
    slope = np.eye(2)[y] - p
    weight = p[y] if weighted else 1.0
    total["a"] += weight * np.square(x[:, None] * slope)
    total["b"] += weight * np.square(slope)
  return {k: v / keep.sum() for k, v in total.items()}


@functools.partial(jax.jit, static_argnames="weighted")
def fisher(examples, where, weighted=True):
  return ewc_fisher(
    log_likelihood, PARAMS, examples, where=where, weighted=weighted
  )


@pytest.mark.parametrize("weighted", [True, False])
def test_fisher_information_with_a_mask(weighted):
  keep = np.arange(16) % 3 != 0
  got = fisher((INPUTS, LABELS), keep, weighted)
  expected = fisher_in_numpy(keep, weighted)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected
  )
  nothing = fisher((INPUTS, LABELS), np.zeros(16, bool))
  assert all(np.all(x == 0) for x in jax.tree.leaves(nothing))


@pytest.mark.slow
def test_fisher_information_over_devices():
  keep = np.arange(16) % 3 != 0
  split = [x.reshape(8, 2, *x.shape[1:]) for x in (INPUTS, LABELS, keep)]
  for transform in (jax.vmap, jax.pmap):
    got = transform(
      lambda x, y, w: ewc_fisher(
        log_likelihood, PARAMS, (x, y), where=w, axis_name="batch"
      ),
      axis_name="batch",
    )(*split)
    for name, expected in fisher_in_numpy(keep).items():
      for row in got[name]:
        np.testing.assert_allclose(row, expected, rtol=1e-4)


@pytest.mark.slow
def test_penalties_and_their_slopes():
  past = jax.tree.map(lambda x: x + 0.5, PARAMS)
  importance = jax.tree.map(np.abs, PARAMS)
  expected = sum(0.25 * x.sum() for x in importance.values())
  state = si_init(past)._replace(importance=importance)
  for penalty in (
    lambda p: ewc_penalty(p, past, importance),
    lambda p: si_penalty(p, state),
  ):
    np.testing.assert_allclose(penalty(PARAMS), expected, rtol=1e-5)
    laws.slopes_agree(
      lambda a, b, f=penalty: f({"a": a, "b": b}), PARAMS.values()
    )
  # Nothing but the parameters has a gradient.
  _, start, weights = jax.grad(ewc_penalty, (0, 1, 2))(PARAMS, past, importance)
  assert all(np.all(x == 0) for x in jax.tree.leaves((start, weights)))
  half = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.bfloat16), PARAMS)
  assert ewc_penalty(half, past, importance).dtype == jnp.float32


def test_synaptic_intelligence_over_two_tasks():
  """As the authors' protocol: path integral, damping, never negative."""
  state = si_init(PARAMS)
  omega = {k: np.zeros_like(v) for k, v in PARAMS.items()}
  params = dict(PARAMS)
  for _ in range(2):
    anchor, path = dict(params), {k: np.zeros_like(v) for k, v in omega.items()}
    for _ in range(3):
      gradients, updates = (
        {
          k: RNG.normal(size=v.shape).astype(np.float32)
          for k, v in params.items()
        }
        for _ in range(2)
      )
      state = si_update(state, gradients, updates)
      for k in params:
        path[k] = path[k] - gradients[k] * updates[k]
        params[k] = params[k] + updates[k]
    state = si_consolidate(state, params, damping=0.5)
    for k in params:
      gap = np.square(params[k] - anchor[k])
      omega[k] = np.maximum(omega[k] + path[k] / (gap + 0.5), 0)
  for k, expected in omega.items():
    np.testing.assert_allclose(
      state.importance[k], expected, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(state.anchor[k], params[k], rtol=1e-6)
    assert np.any(expected == 0)
    np.testing.assert_array_equal(state.path[k], 0)


def test_bad_input_is_named():
  other = {"a": PARAMS["a"]}
  with pytest.raises(ValueError, match="past_params has the structure"):
    ewc_penalty(PARAMS, other, PARAMS)
  wrong = PARAMS | {"b": np.ones(3)}
  with pytest.raises(ValueError, match=r"fisher\['b'\] has shape \(3,\)"):
    ewc_penalty(PARAMS, PARAMS, wrong)
  with pytest.raises(TypeError, match=r"params\['b'\] has dtype int"):
    ewc_penalty(PARAMS | {"b": np.ones(2, int)}, PARAMS, PARAMS)
  with pytest.raises(ValueError, match="the same number of rows"):
    ewc_fisher(log_likelihood, PARAMS, (INPUTS, LABELS[:3]))
  with pytest.raises(ValueError, match=r"where has shape \(3,\)"):
    ewc_fisher(log_likelihood, PARAMS, (INPUTS, LABELS), where=np.ones(3, bool))
  with pytest.raises(ValueError, match="damping is 0"):
    si_consolidate(si_init(PARAMS), PARAMS, damping=0.0)
