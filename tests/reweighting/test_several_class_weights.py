"""Weights by discriminators, predictions and boosting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.reweighting import (
  bbse_weights,
  discriminator_weights,
  iwan_weights,
  pada_class_weights,
  tradaboost,
  tradaboost_init,
  tradaboost_update,
)
from tests.laws import trace

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(16, 4))
LABELS = np.arange(16) % 4
MASK = np.arange(16) % 5 != 1


@pytest.mark.slow
def test_no_gradient_and_half_precision():
  logits = jnp.asarray(LOGITS, jnp.bfloat16)
  labels = jnp.asarray(LABELS)
  forms = (
    pada_class_weights,
    lambda x: pada_class_weights(x, labels),
    lambda x: iwan_weights(x[:, 0]),
    lambda x: discriminator_weights(x[:, 0]),
    lambda x: bbse_weights(x, x[::-1], labels, soft=True),
  )

  @jax.jit
  def run(x):
    return [
      (form(x), jax.grad(lambda x, f=form: jnp.sum(jnp.square(f(x))))(x))
      for form in forms
    ]

  for (half, gradient), (wide, _) in zip(
    run(logits), run(np.float32(logits)), strict=True
  ):
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, wide, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.float32(gradient), 0)


@pytest.mark.slow
def test_devices_agree():
  def run(logits, labels, where, axis_name=None):
    masks = {"where_source": where, "axis_name": axis_name}
    both = {"where_target": where, **masks}
    return (
      pada_class_weights(logits, labels, **both),
      iwan_weights(logits[:, 0], where=where, axis_name=axis_name),
      discriminator_weights(logits[:, 0], **masks),
      bbse_weights(logits, logits[::-1], labels, soft=True, ridge=0.1, **both),
    )

  arguments = (
    np.float32(np.tile(LOGITS[:1], (16, 1)) + LOGITS / 9),
    LABELS,
    MASK,
  )
  whole = jax.jit(run)(*arguments)
  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.shard_map(
    functools.partial(run, axis_name="batch"),
    mesh=mesh,
    in_specs=P("batch"),
    out_specs=P("batch"),
  )
  # Each device reverses its own rows, which leaves sums over rows alone.
  swapped = arguments[0], LABELS, np.ones(16, bool)
  for got, want in zip(
    jax.jit(sharded)(*swapped), jax.jit(run)(*swapped), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  for got, want in zip(
    jax.jit(sharded)(*arguments)[:3], whole[:3], strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_errors_name_the_argument():
  logits, labels, ones = np.float32(LOGITS), LABELS, np.ones(4, np.float32)
  with pytest.raises(ValueError, match=r"temperature is 0.0"):
    trace(pada_class_weights, logits, temperature=0.0)
  with pytest.raises(ValueError, match=r"epsilon is -1.0"):
    trace(iwan_weights, logits[:, 0], epsilon=-1.0)
  with pytest.raises(ValueError, match=r"target_logits has shape \(16, 3\)"):
    trace(bbse_weights, logits, logits[:, :3], labels)
  with pytest.raises(ValueError, match=r"ridge is -0.1"):
    trace(bbse_weights, logits, logits, labels, ridge=-0.1)
  with pytest.raises(ValueError, match=r"source_errors has shape \(3,\)"):
    trace(
      tradaboost_update, tradaboost_init(4, 4), ones[:3], ones, num_rounds=3
    )
  with pytest.raises(ValueError, match="num_rounds is 0"):
    trace(
      tradaboost, logits, logits, labels, labels, logits,
      learner=lambda rows, y, w, q: q, num_classes=4, num_rounds=0,
    )  # fmt: skip
