"""Adapters against the modules' own outputs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from kdjax.nets import Outputs
from kdjax.training import from_linen, from_nnx

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 6))


class Nnx(nnx.Module):
  def __init__(self, rate, rngs):
    self.norm = nnx.BatchNorm(6, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs)])
    self.head = nnx.Linear(6, 3, rngs=rngs)
    self.dropouts = nnx.List([nnx.Dropout(rate, rngs=rngs) for _ in range(2)])

  def __call__(self, x):
    first, second = self.dropouts
    x = self.layers[0](self.norm(x))
    features = {"f0": x, "f1": first(x), "f2": second(x)}
    return Outputs(self.head(first(x)), features, x)


class Linen(linen.Module):
  rate: float

  @linen.compact
  def __call__(self, x, train):
    x = linen.BatchNorm(use_running_average=not train)(x)
    x = linen.Dense(6)(x)
    first, second = (
      linen.Dropout(self.rate, deterministic=not train)(x) for _ in range(2)
    )
    features = {"f0": x, "f1": first, "f2": second}
    return Outputs(linen.Dense(3)(first), features, x)


def nnx_model(rate):
  module = Nnx(rate, nnx.Rngs(0))
  module.norm.mean[...] = jnp.arange(6.0)
  return module, from_nnx(module)


def linen_model(rate):
  module = Linen(rate)
  variables = module.init(KEY, X, train=False)
  variables["batch_stats"]["BatchNorm_0"]["mean"] = jnp.arange(6.0)
  return module, variables, from_linen(module, variables)


def assert_equal(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    actual,
    expected,
  )


def test_nnx_equals_the_module_in_evaluation_and_training():
  module, model = nnx_model(rate=0.0)
  before = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
  outputs, state = model.forward(model.variables, X, train=False, key=None)
  assert_equal(outputs, nnx.view(module, use_running_average=True)(X))
  assert_equal(state, before)
  outputs, state = jax.jit(model.forward, static_argnames="train")(
    model.variables, X, train=True, key=KEY
  )
  assert_equal(nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)), before)
  module.train()
  assert_equal(outputs, module(X))
  assert_equal(state, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
  assert set(model.variables.state) == {"norm"}


def test_linen_equals_the_module_in_evaluation_and_training():
  module, variables, model = linen_model(rate=0.5)
  outputs, state = model.forward(model.variables, X, train=False, key=None)
  assert_equal(outputs, module.apply(variables, X, train=False))
  assert_equal(state, {"batch_stats": variables["batch_stats"]})
  outputs, state = jax.jit(model.forward, static_argnames="train")(
    model.variables, X, train=True, key=KEY
  )
  expected, moved = module.apply(
    variables,
    X,
    train=True,
    rngs={"params": KEY},
    mutable=["batch_stats"],
  )
  assert_equal((outputs, state), (expected, moved))
  assert not np.allclose(
    state["batch_stats"]["BatchNorm_0"]["mean"], np.arange(6.0)
  )


@pytest.mark.parametrize("make", [nnx_model, linen_model])
def test_dropout_follows_the_key_layer_by_layer(make):
  *_, model = make(rate=0.5)

  def forward(seed):
    return model.forward(
      model.variables, X, train=True, key=jax.random.key(seed)
    )[0].features

  features, again, other = forward(0), forward(0), forward(1)
  assert_equal(features, again)
  assert np.any(features["f1"] != other["f1"])
  kept = features["f1"] != 0, features["f2"] != 0
  assert np.any(kept[0] != kept[1])
  for name, mask in zip(("f1", "f2"), kept, strict=True):
    assert_equal(features[name], jnp.where(mask, 2 * features["f0"], 0))
    assert 0.2 < np.mean(mask) < 0.8


def test_training_an_nnx_module_with_dropout_needs_a_key():
  _, model = nnx_model(rate=0.5)
  with pytest.raises(ValueError, match="key is None; a module with random"):
    model.forward(model.variables, X, train=True, key=None)
  plain = from_nnx(nnx.Linear(6, 2, rngs=nnx.Rngs(0)))
  outputs, state = plain.forward(plain.variables, X, train=True, key=None)
  assert (outputs.logits.shape, outputs.features, state) == ((16, 2), {}, {})


def test_gradients_pass_through_the_adapters():
  for model in (nnx_model(0.5)[-1], linen_model(0.5)[-1]):

    def loss(params, model=model):
      variables = model.variables._replace(params=params)
      outputs, state = model.forward(variables, X, train=True, key=KEY)
      return jnp.sum(outputs.logits**2), state

    gradients, _ = jax.jit(jax.grad(loss, has_aux=True))(model.variables.params)
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradients))


def test_linen_modes_and_plain_logits():
  module = linen.Dense(2)
  variables = module.init(KEY, X)
  model = from_linen(module, variables, mode=lambda train: {})
  for train in (True, False):
    outputs, state = model.forward(model.variables, X, train=train, key=None)
    assert_equal(outputs.logits, module.apply(variables, X))
    assert (outputs.features, outputs.embedding, state) == ({}, None, {})


def test_wrong_models_are_refused():
  with pytest.raises(
    TypeError, match=r"model is a Dense; expected an nnx\.Module"
  ):
    inspect.unwrap(from_nnx)(linen.Dense(2))
  with pytest.raises(ValueError, match=r"collections \['batch_stats'\]"):
    from_linen(linen.Dense(2), {"batch_stats": {}})
