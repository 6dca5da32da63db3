"""Batch-coupled losses: eight devices give what one gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.adaptation import coral_loss
from kdjax.adaptation import dann_loss
from kdjax.adaptation import jda_loss
from kdjax.adaptation import mmd
from kdjax.adaptation import soft_h_divergence

DEVICES, LOCAL, DIMS = 8, 3, 4


def batch():
  rng = np.random.default_rng(0)
  n = DEVICES * LOCAL
  data = {
    "source": rng.normal(size=(n, DIMS)),
    "target": 1.5 * rng.normal(size=(n, DIMS)) + 0.5,
  }
  data = {name: jnp.float32(rows) for name, rows in data.items()}
  # As many in each domain, unevenly spread; the first device has no source.
  data["where_source"] = jnp.arange(n) >= LOCAL + 2
  data["where_target"] = jnp.arange(n) < n - LOCAL - 2
  return data


def feature_loss(function, weights, data, masked, axis_name):
  masks = ("where_source", "where_target") if masked else ()
  return function(
    data["source"] @ weights,
    data["target"] @ weights,
    axis_name=axis_name,
    **{name: data[name] for name in masks},
  )


def logit_loss(function, weights, data, masked, axis_name):
  weights = weights[:, 0]
  return feature_loss(function, weights, data, masked, axis_name)


def joint(source, target, *, where_source=None, where_target=None, axis_name):
  divergence = soft_h_divergence(
    source,
    target,
    where_source=where_source,
    where_target=where_target,
    axis_name=axis_name,
  )
  return jda_loss(
    jnp.square(source),
    divergence,
    num_target=17,
    where=where_source,
    axis_name=axis_name,
  )


LOSSES = {
  "mmd biased": (feature_loss, mmd),
  "mmd unbiased": (
    feature_loss,
    functools.partial(mmd, estimator="unbiased", gammas=0.3),
  ),
  "mmd linear": (feature_loss, functools.partial(mmd, estimator="linear")),
  "coral": (feature_loss, functools.partial(coral_loss, scaling="mean")),
  "dann": (logit_loss, dann_loss),
  "joint": (logit_loss, joint),
}


@pytest.mark.parametrize(
  ("name", "masked"),
  [(name, True) for name in LOSSES] + [("mmd biased", False), ("coral", False)],
)
def test_devices_agree(name, masked):
  form, function = LOSSES[name]
  data = batch()
  weights = jnp.float32(np.random.default_rng(1).normal(size=(DIMS, DIMS)))

  def step(weights, data, axis_name="batch"):
    value, gradient = jax.value_and_grad(
      lambda w: form(function, w, data, masked, axis_name)
    )(weights)
    if axis_name is None:
      return value, gradient
    return value, jax.lax.pmean(gradient, axis_name)

  expected = jax.jit(functools.partial(step, axis_name=None))(weights, data)

  shards = jax.tree.map(lambda x: x.reshape(DEVICES, LOCAL, *x.shape[1:]), data)
  mapped = jax.jit(jax.vmap(step, (None, 0), axis_name="batch"))
  for a, b in zip(mapped(weights, shards), expected, strict=True):
    for on_device in a:
      np.testing.assert_allclose(on_device, b, rtol=1e-4, atol=1e-6)

  mesh = jax.make_mesh(
    (DEVICES,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.jit(
    jax.shard_map(
      step, mesh=mesh, in_specs=(P(), P("batch")), out_specs=(P(), P())
    )
  )
  for a, b in zip(sharded(weights, data), expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
