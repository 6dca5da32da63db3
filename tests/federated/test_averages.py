"""Averages over clients: on one device and on many, with clients lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.federated import (
  confidence_weights,
  consensus_logits,
  federated_average,
  federated_prototypes,
)

RNG = np.random.default_rng(0)
PARAMS = {
  "w": RNG.normal(size=(4, 3, 2)).astype(np.float32),
  "b": RNG.normal(size=(4, 2)).astype(np.float32),
}
SIZES = np.float32([5, 0, 2, 1])
LOGITS = RNG.normal(size=(4, 3, 5)).astype(np.float32)


@pytest.mark.slow
def test_a_lost_client_does_not_matter():
  spoiled = jax.tree.map(
    lambda x: np.where(
      np.arange(4).reshape(-1, *[1] * (x.ndim - 1)) == 1, np.nan, x
    ),
    PARAMS,
  )
  got = federated_average(spoiled, SIZES)
  for name, x in PARAMS.items():
    expected = np.average(np.float64(x), 0, SIZES)
    np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-6)
  spoiled = np.where(np.arange(4)[:, None, None] == 1, np.nan, LOGITS)
  for average in ("logits", "probabilities"):
    got = consensus_logits(spoiled, average=average, weights=SIZES)
    assert np.all(np.isfinite(got))


def test_without_any_weight_clients_count_equally():
  got = federated_average(PARAMS, np.zeros(4))
  np.testing.assert_allclose(got["b"], PARAMS["b"].mean(0), rtol=1e-5)
  half = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.bfloat16), PARAMS)
  assert federated_average(half, SIZES)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "transform", [jax.vmap, pytest.param(jax.pmap, marks=pytest.mark.slow)]
)
def test_clients_on_a_mapped_axis(transform):
  def both(params, logits, counts, axis_name=None):
    average = federated_average(params, counts, axis_name=axis_name)
    predictions = [
      consensus_logits(logits, average=kind, weights=w, axis_name=axis_name)
      for kind in ("logits", "probabilities")
      for w in (None, counts, confidence_weights(logits))
    ]
    rows, classes = logits[:, 0, :, None], jnp.outer(counts, jnp.arange(5.0))
    prototypes = federated_prototypes(
      rows, classes, weighted=True, axis_name=axis_name
    )
    return average, predictions, prototypes

  arguments = (PARAMS, LOGITS, SIZES)
  expected = jax.jit(both)(*arguments)
  split = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), arguments)
  mapped = transform(functools.partial(both, axis_name="c"), axis_name="c")
  for got, whole in zip(
    jax.tree.leaves(jax.jit(mapped)(*split)),
    jax.tree.leaves(expected),
    strict=True,
  ):
    np.testing.assert_allclose(got[0], whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_confidence_is_the_variance_of_the_logits():
  np.testing.assert_allclose(
    confidence_weights(LOGITS), LOGITS.var(-1), rtol=1e-5
  )
  masked = np.concatenate([LOGITS, np.full((4, 3, 1), -np.inf)], -1)
  np.testing.assert_allclose(
    confidence_weights(masked), LOGITS.var(-1), rtol=1e-5
  )
  weights = LOGITS.var(-1)[..., None]
  expected = (weights * LOGITS).sum(0) / weights.sum(0)
  got = consensus_logits(LOGITS, weights=confidence_weights(LOGITS))
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_masked_classes_stay_masked():
  masked = np.where(np.arange(5) == 2, -np.inf, LOGITS)
  for average in ("logits", "probabilities"):
    got = consensus_logits(masked, average=average)
    np.testing.assert_array_equal(got[:, 2], -np.inf)
    assert np.all(np.isfinite(np.delete(np.asarray(got), 2, 1)))


def test_prototypes_of_the_clients_that_have_the_class():
  rows = RNG.normal(size=(3, 2, 4)).astype(np.float32)
  counts = np.float32([[2, 0], [1, 0], [0, 0]])
  means, available = federated_prototypes(rows, counts)
  np.testing.assert_allclose(means[0], rows[:2, 0].mean(0), rtol=1e-5)
  np.testing.assert_array_equal(means[1], 0)
  np.testing.assert_array_equal(available, [True, False])
  means, _ = federated_prototypes(rows, counts, weighted=True)
  expected = (2 * rows[0, 0] + rows[1, 0]) / 3
  np.testing.assert_allclose(means[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: federated_average(PARAMS, SIZES[:3]), r"expected 3 clients"),
    (lambda: federated_average(PARAMS, -SIZES), "expected numbers from 0 on"),
    (lambda: federated_average(PARAMS, 1.0), "weights is a scalar"),
    (lambda: federated_average(PARAMS, np.ones((4, 3))), "expected .clients."),
    (lambda: consensus_logits(LOGITS, average="votes"), "expected one of"),
    (
      lambda: consensus_logits(LOGITS, weights=SIZES[:3]),
      r"weights has shape \(3,\); expected \(4,\)",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_parameters_that_are_no_floats_are_an_error():
  with pytest.raises(TypeError, match=r"params\['step'\] has dtype int"):
    federated_average({"step": np.ones(4, np.int32)}, SIZES)
