"""Peers that move in turn, and peers that move at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods, ops, training

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
BATCH = {"x": jnp.asarray(X), "label": jnp.arange(6) % 3}


class Peer(nnx.Module):
  def __init__(self, seed):
    self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(seed))

  def __call__(self, x):
    return self.head(x)


def moved(update):
  method = methods.create("mutual", update=update, epsilon=0.0)
  peers = [Peer(i) for i in range(3)]
  learner = training.collaborate(peers, method, optax.sgd(0.5), on="x")
  state = learner.init(KEY, BATCH)
  after, seen = jax.jit(learner.step)(state, {}, BATCH, KEY)
  return state.params, after.params, seen


def own_loss(own, others):
  def logits(params):
    return BATCH["x"] @ params["head"]["kernel"] + params["head"]["bias"][None]

  ours = logits(own)
  values = ops.cross_entropy(ours, BATCH["label"])
  for other in others:
    values += ops.kl_divergence(ours, logits(other))
  return jnp.mean(values)


@pytest.mark.parametrize("update", ["sequential", "simultaneous"])
def test_a_peer_sees_those_that_moved_before(update):
  start, after, seen = moved(update)
  now = dict(start)
  names = ["peer_0", "peer_1", "peer_2"]
  total = 0.0
  for name in names:
    known = now if update == "sequential" else start
    others = [known[k] for k in names if k != name]
    gradient = jax.grad(own_loss)(start[name], others)
    new = jax.tree.map(lambda p, g: p - 0.5 * g, start[name], gradient)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), new, after[name]
    )
    now[name] = new
    rest = [start[k] for k in names if k != name]
    total += own_loss(start[name], rest)
  np.testing.assert_allclose(
    seen["loss"][0] / seen["loss"][1], total, rtol=1e-5
  )


def test_an_unknown_update_is_refused():
  with pytest.raises(ValueError, match="update is 'both'"):
    methods.create("mutual", update="both")
