"""Meta-learning for domain generalization (MLDG)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.generalization import fish, mldg

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


def mean_gradient(w, index):
  gaps = w - CENTRES[index]
  return np.mean(np.einsum("dij,dj->di", MATRICES[index], gaps), 0)


@pytest.mark.parametrize("first_order", [False, True])
def test_mldg_gradient_on_quadratics(first_order):
  train, test = [0, 1, 2], [3]
  with jax.enable_x64(True):
    value, gradient = jax.jit(
      jax.value_and_grad(
        lambda p: mldg(
          loss_fn,
          p,
          batches(train),
          batches(test),
          step_size=0.2,
          beta=0.7,
          first_order=first_order,
        )
      )
    )({"w": jnp.asarray(PARAMS)})
  adapted = PARAMS - 0.2 * mean_gradient(PARAMS, train)
  losses = [
    np.mean(
      [0.5 * (w - CENTRES[i]) @ MATRICES[i] @ (w - CENTRES[i]) for i in x]
    )
    for w, x in ((PARAMS, train), (adapted, test))
  ]
  np.testing.assert_allclose(value, losses[0] + 0.7 * losses[1], rtol=1e-12)
  through = np.eye(3)
  if not first_order:
    through -= 0.2 * MATRICES[train].mean(0)
  expected = mean_gradient(PARAMS, train)
  expected = expected + 0.7 * through @ mean_gradient(adapted, test)
  np.testing.assert_allclose(gradient["w"], expected, rtol=1e-10)


def optax_update(optimizer):
  def inner_update(gradients, state, params):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  return inner_update


def test_mldg_takes_an_optax_optimizer():
  optimizer = optax.sgd(0.2, momentum=0.9)
  params = {"w": np.float32(PARAMS)}
  train, test = (jax.tree.map(np.float32, batches(x)) for x in ([0, 1], [2, 3]))

  @jax.jit
  def program(params, train, test):
    value = mldg(
      loss_fn,
      params,
      train,
      test,
      inner_update=optax_update(optimizer),
      inner_state=optimizer.init(params),
    )
    return value, mldg(loss_fn, params, train, test, step_size=0.2)

  value, plain = program(params, train, test)
  np.testing.assert_allclose(value, plain, rtol=1e-5)


def test_errors():
  params = {"w": np.float32(PARAMS)}
  data = jax.tree.map(np.float32, batches([0, 1]))
  with pytest.raises(ValueError, match="step_size is 0"):
    mldg(loss_fn, params, data, data, step_size=0)
  with pytest.raises(ValueError, match="meta_step_size is -1"):
    fish(loss_fn, params, data, meta_step_size=-1)
