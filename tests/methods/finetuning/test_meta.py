"""Meta-learning against closed forms on quadratic tasks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from kdjax.methods import adapt_to_task, maml_losses, reptile_gradient

TASKS, DIMS, RATE = 8, 4, 0.1
RNG = np.random.default_rng(0)


def quadratics():
  """L(w) = w^T A w / 2 - b^T w for each task."""
  roots = RNG.normal(size=(TASKS, DIMS, DIMS))
  return {
    "a": roots @ roots.transpose(0, 2, 1) / DIMS + np.eye(DIMS),
    "b": RNG.normal(size=(TASKS, DIMS)),
  }


SUPPORT, QUERY = quadratics(), quadratics()
START = {"body": RNG.normal(size=3), "head": RNG.normal(size=1)}


def flat(params):
  return jnp.concatenate([params["body"], params["head"]])


def loss_fn(params, batch):
  w = flat(params)
  return w @ batch["a"] @ w / 2 - batch["b"] @ w


def closed_form(steps, moves=(1,) * DIMS, first_order=False):
  """Query losses and the gradient of their mean, by powers of a matrix.

  A step is w <- w - rate M (A w - b), where M leaves out what does not move.
  """
  w, mask = flat(START), np.diag(moves)
  losses, gradients = [], []
  for a, b, qa, qb in zip(
    SUPPORT["a"], SUPPORT["b"], QUERY["a"], QUERY["b"], strict=True
  ):
    step = np.eye(DIMS) - RATE * mask @ a
    shift = RATE * mask @ b
    power = np.linalg.matrix_power(step, steps)
    series = sum(np.linalg.matrix_power(step, i) for i in range(steps))
    after = power @ w + (series @ shift if steps else 0)
    losses.append(after @ qa @ after / 2 - qb @ after)
    outer = qa @ after - qb
    gradients.append(outer if first_order else power.T @ outer)
  return np.array(losses), np.mean(gradients, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("steps", "options"),
  [
    (0, {}),
    (1, {}),
    (4, {}),
    (4, {"adapted": ["head"]}),
    (4, {"first_order": True}),
  ],
)
def test_the_meta_gradient_is_the_closed_form(steps, options):
  with jax.enable_x64(True):

    @jax.jit
    def meta(params):
      losses = maml_losses(
        loss_fn, params, SUPPORT, QUERY, optax.sgd(RATE), steps=steps, **options
      )
      return jnp.mean(losses), losses

    (_, losses), gradient = jax.value_and_grad(meta, has_aux=True)(START)
    moves = (0, 0, 0, 1) if "adapted" in options else (1,) * DIMS
    expected = closed_form(steps, moves, options.get("first_order", False))
    np.testing.assert_allclose(losses, expected[0], rtol=1e-9)
    np.testing.assert_allclose(flat(gradient), expected[1], rtol=1e-9)


def test_the_gradient_of_the_inner_rate_is_a_difference():
  """Through any optimizer: here momentum, whose rate is learned."""

  @functools.partial(jax.jit)
  @jax.value_and_grad
  def meta(rate):
    optimizer = optax.sgd(rate, momentum=0.9)
    return jnp.mean(maml_losses(loss_fn, START, SUPPORT, QUERY, optimizer))

  with jax.enable_x64(True):
    _, slope = meta(0.05)
    higher, lower = (meta(0.05 + step)[0] for step in (1e-6, -1e-6))
    np.testing.assert_allclose(slope, (higher - lower) / 2e-6, rtol=1e-6)


def test_what_is_not_adapted_stays_and_is_not_differentiated():
  """The loss would be NaN if the body's gradient were asked for."""

  def loss(params, batch):
    # Where x is 0, the slope of its root is infinite.
    return jnp.sum(jnp.sqrt(params["body"])) + jnp.sum(params["head"] * batch)

  params = {"body": jnp.zeros(3), "head": jnp.ones(2)}
  after = adapt_to_task(
    loss, params, 1.0, optax.adamw(0.5), steps=3, adapted=["head"]
  )
  np.testing.assert_array_equal(after["body"], 0.0)
  assert np.all(after["head"] < 0)


def test_reptile_is_the_way_of_plain_training():
  batches = {
    name: np.stack([SUPPORT[name], QUERY[name]], 1) for name in SUPPORT
  }
  with jax.enable_x64(True):
    way = jax.jit(
      lambda p: reptile_gradient(loss_fn, p, batches, optax.sgd(RATE))
    )(START)
    expected = []
    for task in range(TASKS):
      w = np.array(flat(START))
      for i in range(2):
        a, b = batches["a"][task, i], batches["b"][task, i]
        w = w - RATE * (a @ w - b)
      expected.append(flat(START) - w)
    np.testing.assert_allclose(flat(way), np.mean(expected, 0), rtol=1e-12)


@pytest.mark.slow
def test_eight_devices_equal_one():
  optimizer = optax.sgd(RATE)
  arguments = jax.tree.map(np.float32, (START, SUPPORT, QUERY))

  def both(params, support, query, axis_name=None):
    def mean(params):
      losses = maml_losses(loss_fn, params, support, query, optimizer, steps=2)
      mean = jnp.mean(losses)
      return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    gradient = jax.grad(mean)(params)
    if axis_name is not None:
      gradient = jax.lax.pmean(gradient, axis_name)
    way = reptile_gradient(
      loss_fn, params, support, optimizer, steps=2, axis_name=axis_name
    )
    return gradient, way

  mesh = jax.make_mesh((8,), ("tasks",), (jax.sharding.AxisType.Auto,))
  sharded = jax.shard_map(
    functools.partial(both, axis_name="tasks"),
    mesh=mesh,
    in_specs=(P(), P("tasks"), P("tasks")),
    out_specs=P(),
  )
  chex.assert_trees_all_close(
    jax.jit(sharded)(*arguments), jax.jit(both)(*arguments), rtol=1e-5
  )


def test_errors_name_the_argument():
  arguments = loss_fn, START, SUPPORT, optax.sgd(RATE)
  with pytest.raises(TypeError, match="steps is True; expected an integer"):
    adapt_to_task(*arguments, steps=True)
  with pytest.raises(ValueError, match="steps is -1"):
    adapt_to_task(*arguments, steps=-1)
  with pytest.raises(ValueError, match=r"groups\[0\] is 'tail'; expected"):
    adapt_to_task(*arguments, adapted=["tail"])
