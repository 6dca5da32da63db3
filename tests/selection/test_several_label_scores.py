"""LEEP and NCE in NumPy, under jit, masked and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.selection import leep, nce
from tests import laws

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.ones(5), 16).astype(np.float32)
LABELS = RNG.permutation(np.arange(16) % 3)
SOURCE = RNG.integers(0, 4, 16)
WHERE = np.arange(16) % 5 != 0
LEEP, NCE = jax.jit(leep), jax.jit(nce)


def of_probabilities(probabilities, unused, labels, **options):
  del unused
  return leep(probabilities, labels, num_classes=3, **options)


CASES = {
  "scores": laws.Case(
    of_probabilities,
    (PROBABILITIES, PROBABILITIES, LABELS),
    coupled=True,
    unused=(1,),
  )
}


@pytest.mark.parametrize(("name", "law"), laws.pairs(CASES))
def test_law(name, law):
  law(CASES[name])


def leep_oracle(probabilities, labels):
  joint = np.stack(
    [
      probabilities[labels == c].sum(0) / len(labels)
      for c in range(labels.max() + 1)
    ]
  )
  conditional = joint / joint.sum(0)
  likelihood = [
    np.sum(conditional[y] * p)
    for y, p in zip(labels, probabilities, strict=True)
  ]
  return np.mean(np.log(likelihood))


def nce_oracle(source, target):
  total = 0.0
  for z in set(source):
    for y in set(target):
      both = np.mean((source == z) & (target == y))
      if both > 0:
        total += both * np.log(both / np.mean(source == z))
  return total


@pytest.mark.parametrize("classes", [2, 7])
def test_leep_equals_numpy(classes):
  rng = np.random.default_rng(classes)
  probabilities = rng.dirichlet(np.ones(4), 30)
  labels = rng.permutation(np.arange(30, dtype=np.int32) % classes)
  expected = leep_oracle(probabilities, labels)

  @jax.jit
  def run(probabilities, traced):
    """Known labels, traced ones, and more classes than there are."""
    return (
      leep(probabilities, labels),
      leep(probabilities, traced),
      leep(probabilities, traced, num_classes=classes + 2),
    )

  with jax.enable_x64(True):
    for value in run(probabilities, labels):
      np.testing.assert_allclose(value, expected, rtol=1e-12)
  single = LEEP(np.float32(probabilities), labels)
  np.testing.assert_allclose(single, expected, rtol=1e-5)


def test_leep_limits():
  sure = np.eye(3, dtype=np.float32)[LABELS]
  np.testing.assert_allclose(LEEP(sure, LABELS), 0, atol=1e-6)
  blind = np.full((16, 3), 1 / 3, np.float32)
  shares = np.bincount(LABELS) / 16
  np.testing.assert_allclose(
    LEEP(blind, LABELS), np.sum(shares * np.log(shares)), rtol=1e-5
  )
  # A class that the source model never names is no NaN.
  padded = np.pad(PROBABILITIES, ((0, 0), (0, 2)))
  np.testing.assert_allclose(
    LEEP(padded, LABELS), LEEP(PROBABILITIES, LABELS), rtol=1e-6
  )


def test_nce_equals_numpy():
  expected = nce_oracle(SOURCE, LABELS)
  with jax.enable_x64(True):
    np.testing.assert_allclose(NCE(SOURCE, LABELS), expected, rtol=1e-12)
  # Labels are names.
  renamed = NCE(1000 * SOURCE - 7, -5 * LABELS)
  assert renamed.dtype == jnp.float32
  np.testing.assert_allclose(renamed, expected, rtol=1e-5)
  assert NCE(LABELS, LABELS) == 0
  assert NCE(SOURCE[:1], LABELS[:1]) == 0


def test_nce_masked_and_over_devices():
  expected = nce_oracle(SOURCE[WHERE], LABELS[WHERE])
  spoiled = np.where(WHERE, SOURCE, 99)
  np.testing.assert_allclose(
    NCE(spoiled, LABELS, where=WHERE), expected, rtol=1e-5
  )
  assert NCE(SOURCE, LABELS, where=np.zeros(16, bool)) == 0
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    lambda s, t, w: nce(s, t, where=w, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P(),
  )
  np.testing.assert_allclose(
    jax.jit(sharded)(spoiled, LABELS, WHERE), expected, rtol=1e-5
  )


def test_errors_name_the_argument():
  with pytest.raises(ValueError, match=r"target_labels has shape \(3,\)"):
    leep(PROBABILITIES, LABELS[:3])
  with pytest.raises(TypeError, match="target_labels has dtype float32"):
    nce(SOURCE, np.ones(16, np.float32))
  with pytest.raises(ValueError, match="num_classes is 0; expected an integer"):
    leep(PROBABILITIES, LABELS, num_classes=0)
