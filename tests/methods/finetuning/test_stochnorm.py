"""A network whose batch normalizations have become stochastic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import methods, nets
from kdjax.finetuning import stochnorm
from kdjax.training import from_nnx

KEY = jax.random.key(0)
ROWS = np.float32(np.random.default_rng(0).normal(size=(8, 6)) * 3 + 1)


class Layer(nnx.Module):
  def __init__(self, **options):
    self.norm = nnx.BatchNorm(
      6, momentum=0.8, epsilon=1e-3, rngs=nnx.Rngs(0), **options
    )

  def __call__(self, x):
    return self.norm(jnp.asarray(x))


def converted(module, **options):
  return methods.create("stochnorm", **options).network(module)


def layer(probability=0.5, **options):
  return converted(Layer(**options), probability=probability)


def test_a_layer_is_the_function_with_its_numbers():
  model = from_nnx(layer(probability=0.25))

  @jax.jit
  def forward(key):
    return model.forward(model.variables, ROWS, train=True, key=key)

  outputs, state = forward(KEY)
  _, other = forward(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, state, other)

  @jax.jit
  def draw(probability):
    return stochnorm(
      KEY,
      jnp.asarray(ROWS),
      jnp.zeros(6),
      jnp.ones(6),
      probability=probability,
      epsilon=1e-3,
      momentum=0.2,
    )

  drawn = jax.device_get([draw(0.0), draw(1.0)])
  moving, batch = (x.outputs for x in drawn)
  near = [np.abs(outputs.logits - x).max(0) < 1e-5 for x in (moving, batch)]
  assert np.all(near[0] != near[1])  # each channel has one or the other
  np.testing.assert_allclose(state["norm"]["mean"], drawn[1].mean, rtol=1e-5)
  np.testing.assert_allclose(state["norm"]["var"], drawn[1].variance, rtol=1e-5)


def test_the_share_of_channels_is_the_probability():
  model = from_nnx(layer(probability=0.25))
  gaps = jax.jit(
    jax.vmap(
      lambda key: jnp.abs(
        model.forward(model.variables, ROWS, train=True, key=key)[0].logits
        - ROWS / np.sqrt(1 + 1e-3)
      )
    )
  )(jax.random.split(KEY, 500))
  own = np.mean(np.max(gaps, 1) > 1e-3)
  # Four standard deviations of 3000 draws.
  assert abs(own - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 3000)


@pytest.mark.slow
def test_layers_of_a_network_draw_on_their_own_and_share_its_variables():
  build = functools.partial(
    nets.create, "resnet8", input_shape=(8, 8, 1), num_classes=3
  )
  before = from_nnx(nnx.jit(lambda: build(rngs=nnx.Rngs(0)))())
  after = from_nnx(nnx.eval_shape(lambda: converted(build(rngs=nnx.Rngs(0)))))
  assert jax.tree.structure(before.variables) == jax.tree.structure(
    after.variables
  )
  images = jax.random.normal(KEY, (4, 8, 8, 1))

  @jax.jit
  def run(variables):
    evaluated = [
      model.forward(variables, images, train=False, key=None)[0].logits
      for model in (before, after)
    ]
    trained = jax.vmap(
      lambda key: after.forward(variables, images, train=True, key=key)
    )(jax.random.split(KEY))
    return evaluated, trained

  evaluated, trained = run(before.variables)
  np.testing.assert_allclose(*evaluated, rtol=1e-5, atol=1e-6)
  outputs, state = jax.device_get(trained)
  assert np.abs(outputs.logits[0] - outputs.logits[1]).max() > 1e-3
  assert jax.tree.structure(state) == jax.tree.structure(before.variables.state)


def test_norms_without_scale_or_bias():
  norm = layer(use_scale=False, use_bias=False)
  norm.eval()
  np.testing.assert_allclose(norm(ROWS), ROWS / np.sqrt(1 + 1e-3), rtol=1e-5)


def test_a_probability_above_one_will_not_do():
  with pytest.raises(ValueError, match=r"stochnorm: probability is 1\.5"):
    layer(probability=1.5)
