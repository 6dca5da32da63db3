"""The protocols' numbers, against the published code's own formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.training import cifar100_recipe, function_matching_recipe

KEY = jax.random.key(0)


def train(optimizer, params, gradients):
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_cifar100_drops_after_the_published_epochs():
  recipe = cifar100_recipe()
  assert (recipe.batch_size, recipe.total_steps) == (64, 240 * 782)
  # RepDistiller counts epochs from 1 and asks whether they exceed 150.
  epochs = np.array([1, 150, 151, 180, 181, 210, 211, 240])
  drops = np.sum(epochs[:, None] > np.array([150, 180, 210]), -1)
  for last in (False, True):
    steps = epochs * 782 - 1 if last else (epochs - 1) * 782
    rates = jax.vmap(recipe.schedule)(steps)
    np.testing.assert_allclose(rates, 0.05 * 0.1**drops, rtol=1e-5)
  small = cifar100_recipe(learning_rate=0.01, epochs=24, num_examples=65)
  assert small.total_steps == 48
  assert small.schedule(29) == np.float32(0.01)
  np.testing.assert_allclose(small.schedule(30), 0.001, rtol=1e-5)


def test_cifar100_decays_all_parameters_by_the_gradient():
  rng = np.random.default_rng(0)
  theta, gradients = rng.normal(size=4), rng.normal(size=(3, 4))
  params = train(
    cifar100_recipe().optimizer,
    {"bias": jnp.asarray(theta, jnp.float32)},
    [{"bias": jnp.asarray(g, jnp.float32)} for g in gradients],
  )
  velocity = np.zeros(4)
  for gradient in gradients:
    velocity = 0.9 * velocity + gradient + 5e-4 * theta
    theta = theta - 0.05 * velocity
  np.testing.assert_allclose(params["bias"], theta, rtol=1e-5)


def test_cifar100_views_are_shifted_and_flipped_bytes():
  recipe = cifar100_recipe()
  images = jnp.arange(4 * 32 * 32 * 3).reshape(4, 32, 32, 3) % 256
  views = jax.jit(recipe.augment)(KEY, images.astype(jnp.uint8))
  assert (views.shape, views.dtype) == (images.shape, jnp.uint8)
  np.testing.assert_allclose(recipe.mean, [129.3105, 124.1085, 112.404])
  np.testing.assert_allclose(recipe.std, [68.2125, 65.4075, 70.4055], rtol=1e-6)


def test_function_matching_moves_as_big_vision():
  recipe = function_matching_recipe("pet/fast", num_examples=3312)
  total = recipe.total_steps
  assert (total, recipe.batch_size, recipe.temperature) == (6469, 512, 5.0)
  steps = np.array([0, 300, 1500, 4000, 6469])
  progress = np.clip((steps - 1500) / (total - 1500), 0, 1)
  scale = 0.5 * (1 + np.cos(np.pi * progress)) * np.minimum(1, steps / 1500)
  rates = jax.vmap(recipe.schedule)(steps)
  np.testing.assert_allclose(rates, 0.01 * scale, rtol=1e-4, atol=1e-8)

  rng = np.random.default_rng(0)
  theta = {k: rng.normal(size=3) for k in ("kernel", "bias")}
  gradients = [{k: rng.normal(size=3) for k in theta} for _ in range(3)]
  params = train(
    recipe.optimizer,
    jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"dense": theta}),
    [{"dense": jax.tree.map(jnp.float32, g)} for g in gradients],
  )["dense"]
  first = {k: np.zeros(3) for k in theta}
  second = {k: np.zeros(3) for k in theta}
  for step, gradient in enumerate(gradients):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    for k, g in gradient.items():
      g = g / max(norm, 1.0)
      first[k] = 0.9 * first[k] + 0.1 * g
      second[k] = 0.999 * second[k] + 0.001 * g**2
      adam = first[k] / (1 - 0.9 ** (step + 1))
      adam /= np.sqrt(second[k] / (1 - 0.999 ** (step + 1))) + 1e-8
      decay = 1e-3 * theta[k] if k == "kernel" else 0.0
      theta[k] = theta[k] - step / 1500 * (0.01 * adam + decay)
  for k, value in params.items():
    # The first moment is kept in bfloat16.
    np.testing.assert_allclose(value, theta[k], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_function_matching_views_are_blended_crops():
  recipe = function_matching_recipe("food/fast", num_examples=68_175)
  images = jnp.broadcast_to(
    jnp.array([0, 100, 200], jnp.uint8)[:, None, None, None], (3, 40, 50, 3)
  )
  views = jax.jit(recipe.augment)(jax.random.key(1), images)
  assert (views.shape, views.dtype) == ((3, 128, 128, 3), jnp.float32)
  means = views.mean((1, 2, 3))
  np.testing.assert_allclose(
    views, jnp.broadcast_to(means[:, None, None, None], views.shape), atol=1e-3
  )
  np.testing.assert_allclose(means.sum(), 300, rtol=1e-5)
  assert not set(np.round(means).tolist()) <= {0.0, 100.0, 200.0}


def test_errors():
  with pytest.raises(ValueError, match="variant is 'pets'; expected one of"):
    function_matching_recipe("pets", num_examples=1)
  with pytest.raises(
    ValueError, match="make 2 steps of 512 examples; expected"
  ):
    function_matching_recipe("pet/fast", num_examples=1024, epochs=1)
  with pytest.raises(ValueError, match="epochs is 0; expected an integer from"):
    cifar100_recipe(epochs=0)
