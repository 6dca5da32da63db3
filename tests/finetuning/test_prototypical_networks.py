"""Prototypical networks against NumPy, masked, and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.finetuning import (
  class_prototypes,
  prototypical_logits,
  prototypical_loss,
)
from tests import laws

RNG = np.random.default_rng(1)
SUPPORT, QUERY = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (16, 12))
LABELS = np.arange(16, dtype=np.int32) % 4
QUERY_LABELS = RNG.integers(0, 3, 12, dtype=np.int32)
# Class 3 has no support.
WHERE = (LABELS != 3) & (np.arange(16) != 4)
program = jax.jit(
  functools.partial(prototypical_loss, num_classes=4),
  static_argnames=("distance", "axis_name"),
)


def oracle(distance):
  """Of the examples that count, in float64."""
  x, y = np.float64(SUPPORT[WHERE]), LABELS[WHERE]
  centers = np.stack([x[y == c].mean(0) for c in range(3)])
  q = np.float64(QUERY)
  if distance == "cosine":
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (q, centers))
    z = a @ b.T - 1
  else:
    z = -np.square(q[:, None] - centers[None]).sum(-1)
  log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
  return centers, -log_p[np.arange(12), QUERY_LABELS]


@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
def test_loss_equals_numpy_without_what_is_masked(distance):
  spoiled = np.where(WHERE[:, None], SUPPORT, np.nan)
  losses = program(
    spoiled, LABELS, QUERY, QUERY_LABELS, where=WHERE, distance=distance
  )
  np.testing.assert_allclose(losses, oracle(distance)[1], rtol=1e-5)


def test_prototypes_are_class_means():
  @jax.jit
  def run(support, query):
    prototypes = class_prototypes(support, LABELS, num_classes=5, where=WHERE)
    known = np.arange(5) < 3
    return prototypes, prototypical_logits(query, prototypes, where=known)

  prototypes, logits = jax.device_get(run(SUPPORT, QUERY))
  expected, _ = oracle("squared_euclidean")
  np.testing.assert_allclose(prototypes[:3], expected, rtol=1e-6)
  np.testing.assert_array_equal(prototypes[3:], 0.0)
  assert np.all(np.isneginf(logits[:, 3:]))
  assert np.all(np.isfinite(logits[:, :3]))


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
def test_gradients_reach_support_and_query(distance):
  def total(support, query):
    return jnp.sum(
      prototypical_loss(
        support,
        LABELS,
        query,
        QUERY_LABELS,
        num_classes=4,
        distance=distance,
        where=WHERE,
      )
    )

  laws.slopes_agree(total, (SUPPORT, QUERY))


def test_extremes_are_finite():
  gradients = jax.jit(
    jax.value_and_grad(
      lambda s, q, scale: jnp.sum(
        prototypical_loss(
          scale * s, LABELS, scale * q, QUERY_LABELS, num_classes=4
        )
      ),
      (0, 1),
    )
  )
  for scale in (0.0, 1e-4, 1e4):
    for leaf in jax.tree.leaves(gradients(SUPPORT, QUERY, scale)):
      assert np.all(np.isfinite(leaf))


@pytest.mark.slow
def test_eight_devices_and_episodes_equal_a_loop():
  """Support over devices; then two episodes at once."""
  mesh = jax.make_mesh((8,), ("batch",), (jax.sharding.AxisType.Auto,))
  sharded = jax.shard_map(
    functools.partial(prototypical_loss, num_classes=4, axis_name="batch"),
    mesh=mesh,
    in_specs=(P("batch"), P("batch"), P(), P()),
    out_specs=P(),
  )
  arguments = SUPPORT, LABELS, QUERY, QUERY_LABELS
  alone = program(*arguments)
  np.testing.assert_allclose(jax.jit(sharded)(*arguments), alone, rtol=1e-5)
  episodes = [np.stack([x, x[::-1]]) for x in arguments]
  first, second = jax.jit(
    jax.vmap(functools.partial(prototypical_loss, num_classes=4))
  )(*episodes)
  np.testing.assert_allclose(first, alone, rtol=1e-5)
  np.testing.assert_allclose(second[::-1], alone, rtol=1e-5)


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match="num_classes is None; expected an int"):
    jax.jit(prototypical_loss)(SUPPORT, LABELS, QUERY, QUERY_LABELS)
  with pytest.raises(ValueError, match="distance is 'l1'; expected one of"):
    prototypical_logits(QUERY, SUPPORT, distance="l1")
  with pytest.raises(ValueError, match=r"prototypes has shape \(16, 4\)"):
    prototypical_logits(QUERY, SUPPORT[:, :4])
