"""Fish: inter-domain gradient matching."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.generalization import fish

RNG = np.random.default_rng(0)
MATRICES = RNG.normal(size=(4, 3, 3))
MATRICES = MATRICES @ MATRICES.transpose(0, 2, 1) / 3
CENTRES = RNG.normal(size=(4, 3))
PARAMS = RNG.normal(size=3)


def loss_fn(params, batch):
  """A quadratic, whose Hessian is the matrix."""
  matrix, centre = batch
  gap = params["w"] - centre
  return 0.5 * gap @ matrix @ gap


def batches(index):
  return MATRICES[index], CENTRES[index]


def optax_update(optimizer):
  def inner_update(gradients, state, params):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  return inner_update


def test_fish_equals_a_loop_with_adam():
  optimizer = optax.adam(0.05)
  update = optax_update(optimizer)
  with jax.enable_x64(True):
    params = expected = {"w": jnp.asarray(PARAMS)}
    state = wanted_state = optimizer.init(params)
    program = jax.jit(functools.partial(fish, loss_fn, inner_update=update))
    everything = batches(np.arange(4))
    for _ in range(2):
      params, state, losses = program(
        params, everything, inner_state=state, meta_step_size=0.3
      )
      inner = expected
      for d in range(4):
        gradient = {"w": jnp.asarray(MATRICES[d] @ (inner["w"] - CENTRES[d]))}
        inner, wanted_state = update(gradient, wanted_state, inner)
      expected = {"w": expected["w"] + 0.3 * (inner["w"] - expected["w"])}
    np.testing.assert_allclose(params["w"], expected["w"], rtol=1e-10)
    assert losses.shape == (4,)


def test_fish_raises_the_agreement_of_gradients():
  """To second order, its step has the gradient of their inner products."""
  step = 1e-3
  with jax.enable_x64(True):
    run = jax.jit(functools.partial(fish, loss_fn))
    orders = [
      run({"w": PARAMS}, batches(order), step_size=step)
      for order in ([0, 1], [1, 0])
    ]
  moved = sum(np.asarray(o.params["w"]) for o in orders) / 2 - PARAMS
  first, second = (MATRICES[d] @ (PARAMS - CENTRES[d]) for d in (0, 1))
  inner_product = MATRICES[0] @ second + MATRICES[1] @ first
  expected = 0.5 * (-step * (first + second) + step**2 / 2 * inner_product)
  np.testing.assert_allclose(moved, expected, rtol=1e-9)


def test_fish_draws_the_order():
  params = {"w": np.float32(PARAMS)}
  data = jax.tree.map(np.float32, batches(np.arange(4)))
  program = jax.jit(functools.partial(fish, loss_fn, step_size=0.3))
  results = [program(params, data, key=jax.random.key(k)) for k in range(3)]
  assert len({tuple(np.asarray(r.params["w"])) for r in results}) > 1
  # The losses stand in the order of the batch: the first to go is unmoved.
  at_start = jax.jit(jax.vmap(loss_fn, (None, 0)))(params, data)
  for result in results:
    assert np.isclose(result.losses, at_start, rtol=1e-5).sum() == 1
