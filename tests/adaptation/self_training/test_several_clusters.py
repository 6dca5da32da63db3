"""Spherical k-means of CAN and centroid pseudo-labels of SHOT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.adaptation import centroid_pseudo_labels, spherical_kmeans

KMEANS = jax.jit(
  spherical_kmeans, static_argnames=("num_iterations", "normalize")
)
LABELS = jax.jit(
  centroid_pseudo_labels, static_argnames=("num_rounds", "distance")
)
rng = np.random.default_rng(0)
FEATURES = rng.normal(size=(48, 6))
CENTERS = rng.normal(size=(4, 6))
LOGITS = 2 * FEATURES @ rng.normal(size=(6, 4))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def kmeans_oracle(features, centers, tolerance, normalize):
  old = unit(centers)
  while True:
    labels = np.argmax(unit(features) @ old.T, 1)
    rows = unit(features) if normalize else features
    new = np.stack(
      [
        rows[labels == c].sum(0) if np.any(labels == c) else centers[c]
        for c in range(len(centers))
      ]
    )
    moved = np.mean(0.5 * (1 - np.sum(unit(new) * old, 1)))
    old = unit(new)
    if moved < tolerance:
      similarities = unit(features) @ old.T
      return old, similarities.argmax(1), 0.5 * (1 - similarities.max(1))


def shot_oracle(features, logits, distance, min_count, num_rounds=2):
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  if distance == "cosine":
    features = unit(np.concatenate([features, np.ones((len(features), 1))], 1))
  labels = logits.argmax(1)
  for _ in range(num_rounds):
    centers = p.T @ features / p.sum(0)[:, None]
    present = np.flatnonzero(np.bincount(labels, minlength=4) > min_count)
    if distance == "cosine":
      cost = 1 - unit(features) @ unit(centers).T
    else:
      cost = np.sum((features[:, None] - centers[None]) ** 2, -1)
    labels = present[np.argmin(cost[:, present], 1)]
    p = np.eye(4)[labels]
    p[:, p.sum(0) == 0] = 1e-30
  return labels


@pytest.mark.parametrize("normalize", [True, False])
def test_kmeans_equals_numpy(normalize):
  for tolerance in (1e-2, 1e-6):
    centers, labels, distances = kmeans_oracle(
      FEATURES, CENTERS, tolerance, normalize
    )
    with jax.enable_x64(True):
      found = KMEANS(
        FEATURES, CENTERS, tolerance=tolerance, normalize=normalize
      )
    np.testing.assert_allclose(found.centers, centers, rtol=1e-9)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.distances, distances, atol=1e-12)


@pytest.mark.slow
def test_kmeans_keeps_empty_clusters_and_masks():
  features = np.tile([[1.0, 0.0], [1.0, 0.1]], (4, 1)).astype(np.float32)
  centers = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  found = KMEANS(features, centers)
  np.testing.assert_allclose(found.centers[1], [-1, 0], atol=1e-6)
  where = np.arange(8) < 5
  spoiled = np.where(where[:, None], features, np.nan)
  masked = KMEANS(spoiled, centers, where=where)
  alone = KMEANS(features[:5], centers)
  np.testing.assert_allclose(masked.centers, alone.centers, rtol=1e-6)
  nothing = KMEANS(features, centers, where=np.zeros(8, bool))
  np.testing.assert_allclose(nothing.centers, centers)
  for stretch in (0.0, 1e-30, 1e30):
    for leaf in KMEANS(np.float32(stretch) * features, centers):
      assert np.all(np.isfinite(leaf))
  # Directions alone matter.
  longer = KMEANS(features * np.arange(1, 9)[:, None], centers)
  np.testing.assert_allclose(longer.centers, found.centers, atol=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_shot_equals_numpy(distance):
  for min_count in (0, 11):
    with jax.enable_x64(True):
      found = LABELS(FEATURES, LOGITS, distance=distance, min_count=min_count)
    np.testing.assert_array_equal(
      found, shot_oracle(FEATURES, LOGITS, distance, min_count)
    )


def test_shot_repairs_a_classifier_that_is_off():
  draw = np.random.default_rng(1)
  classes = draw.integers(0, 4, 80)
  features = 3 * np.eye(4)[classes] + 0.3 * draw.normal(size=(80, 4))
  logits = features + [1.6, 0.0, 0.0, 0.0] + 0.8 * draw.normal(size=(80, 4))
  before = np.mean(logits.argmax(1) == classes)
  after = np.mean(LABELS(jnp.float32(features), jnp.float32(logits)) == classes)
  assert before < 0.98 < after


@pytest.mark.slow
def test_eight_devices_equal_one():
  where = np.arange(48) % 7 > 0
  features, logits = jnp.float32(FEATURES), jnp.float32(LOGITS)
  centers = jnp.float32(CENTERS)
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )

  def both(features, logits, where, axis_name="batch"):
    found = spherical_kmeans(
      features, centers, where=where, axis_name=axis_name
    )
    labels = centroid_pseudo_labels(
      features, logits, where=where, axis_name=axis_name
    )
    return found.centers, found.labels, labels

  sharded = jax.shard_map(
    both,
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=(P(), P("batch"), P("batch")),
  )
  got = jax.jit(sharded)(features, logits, where)
  want = jax.jit(lambda *x: both(*x, axis_name=None))(features, logits, where)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_array_equal(got[2], want[2])


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"centers has shape \(4, 5\)"):
    spherical_kmeans(jnp.ones((3, 6)), jnp.ones((4, 5)))
  with pytest.raises(ValueError, match="iterations is 0"):
    spherical_kmeans(jnp.ones((3, 6)), jnp.ones((4, 6)), num_iterations=0)
  with pytest.raises(ValueError, match=r"logits has shape \(2, 4\)"):
    centroid_pseudo_labels(jnp.ones((3, 6)), jnp.ones((2, 4)))
  with pytest.raises(ValueError, match="distance is 'l1'"):
    centroid_pseudo_labels(jnp.ones((3, 6)), jnp.ones((3, 4)), distance="l1")
