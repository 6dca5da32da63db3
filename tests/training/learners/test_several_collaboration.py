"""Learners of peers: updates at once and one after the other, stale answers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import methods
from kdjax.methods import create
from kdjax.nets import Outputs
from kdjax.training import (
  Network,
  Variables,
  collaborate,
  guide,
  parallelize,
  stale_peers,
)

KEY = jax.random.key(0)
BATCH = {
  "x": jax.random.normal(jax.random.key(1), (8, 3)),
  "label": jnp.arange(8) % 2,
  "mask": jnp.arange(8) < 7,
}
PULL, BOND, RATE = 0.5, 0.75, 0.25


def point(position):
  """A network that answers with its parameters, whatever it sees."""

  def forward(variables, x, *, train, key):
    rows = jnp.broadcast_to(variables.params[None], (x.shape[0], 2))
    return Outputs(rows, {}, None), variables.state

  return Network(lambda key: Variables(jnp.asarray(position), {}), forward)


def quadratic(peer_0_logits, peer_1_logits, peer_2_logits=None):
  """Each peer is pulled to 0, and to the others as they are."""
  peers = [peer_0_logits, peer_1_logits]
  if peer_2_logits is not None:
    peers.append(peer_2_logits)
  total = 0.0
  for i, x in enumerate(peers):
    total += PULL / 2 * jnp.sum(x**2, -1)
    for j, y in enumerate(peers):
      if i != j:
        gap = x - jax.lax.stop_gradient(y)
        total += BOND / 2 * jnp.sum(gap**2, -1)
  return total


def three(peer_0_logits, peer_1_logits, peer_2_logits):
  return quadratic(peer_0_logits, peer_1_logits, peer_2_logits)


def positions(state):
  return np.stack([v for k, v in sorted(state.params.items()) if "peer" in k])


def test_simultaneous_peers_contract_at_the_derived_rate():
  """docs/collaboration.md: the mean by 1 - ha, differences by 1 - h(a + cK)."""
  start = np.float32([[1, 2], [-1, 0], [3, 1]])
  learner = collaborate(
    [point(x) for x in start], three, optax.sgd(RATE), on="x"
  )
  state = learner.init(KEY, BATCH)
  step = jax.jit(learner.step)
  mean, gaps = start.mean(0), start - start.mean(0)
  for _ in range(3):
    state, _ = step(state, learner.frozen, BATCH, KEY)
    mean = (1 - RATE * PULL) * mean
    gaps = (1 - RATE * (PULL + 3 * BOND)) * gaps
    np.testing.assert_allclose(positions(state), mean + gaps, rtol=1e-5)


PEERS = ("peer_0", "peer_1")
SEQUENTIAL = methods.alternate(*(methods.Turn(moves=(k,)) for k in PEERS))


def test_sequential_peers_see_the_new_answers_of_those_before():
  start = np.float32([[1, 2], [-1, 0]])
  passes = {name: methods.Pass(name, train=True) for name in PEERS}
  learner = collaborate(
    [point(x) for x in start],
    methods.Method(methods.stateless(quadratic), passes, update=SEQUENTIAL),
    optax.sgd(RATE),
    on="x",
  )
  state = learner.init(KEY, BATCH)
  step = jax.jit(learner.step)
  a, b = start
  for _ in range(2):
    state, metrics = step(state, learner.frozen, BATCH, KEY)
    a = a - RATE * (PULL * a + BOND * (a - b))
    b = b - RATE * (PULL * b + BOND * (b - a))
    np.testing.assert_allclose(positions(state), [a, b], rtol=1e-5)
  assert np.isfinite(metrics["loss"][0])


@pytest.mark.slow
@pytest.mark.parametrize(
  "update", [None, SEQUENTIAL], ids=["at once", "in turn"]
)
def test_devices_equal_one_device(update):
  """With momentum, whose state each peer has of its own."""
  peers = [nnx.Linear(3, 2, rngs=nnx.Rngs(i)) for i in range(2)]
  learner = collaborate(
    peers,
    create("mutual")._replace(update=update),
    optax.sgd(0.1, momentum=0.9),
    on="x",
  )
  one = two = learner.init(KEY, BATCH)
  step = jax.jit(learner.step)
  sharded = parallelize(learner.step, "shard_map", devices=jax.devices()[:4])
  for _ in range(2):
    one, _ = step(one, learner.frozen, BATCH, KEY)
    two, _ = sharded(two, learner.frozen, BATCH, KEY)
  for a, b in zip(
    jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_stale_answers_are_what_frozen_says_until_it_is_renewed():
  peers = [nnx.Linear(3, 2, rngs=nnx.Rngs(i)) for i in range(2)]
  objective = create("codistillation", burn_in=1)
  learner = collaborate(peers, objective, optax.sgd(0.5), on="x")
  state = learner.init(KEY, BATCH)
  step = jax.jit(learner.step)
  state, first = step(state, learner.frozen, BATCH, KEY)
  fresh = {**learner.frozen, **stale_peers(state)}
  assert set(fresh) == {"stale_0", "stale_1"}
  _, old = step(state, learner.frozen, BATCH, KEY)
  _, new = step(state, fresh, BATCH, KEY)
  # Before the burn-in the loss is that of the labels alone.
  key = "codistillation/labels/loss"
  np.testing.assert_allclose(first["loss"][0], first[key][0], rtol=1e-6)
  assert old["loss"][0] > old[key][0]
  assert new["loss"][0] != old["loss"][0]


def test_evaluation_shows_each_peer_the_ensemble_and_a_collapse():
  peers = [point(np.float32(x)) for x in ([1, 0], [1, 0], [0, 3])]
  learner = collaborate(peers, three, optax.sgd(0.1), on="x")
  state = learner.init(KEY, BATCH)
  seen = learner.evaluate(state, learner.frozen, BATCH)
  rates = {k: float(total / count) for k, (total, count) in seen.items()}
  zeros = float(np.mean(np.arange(7) % 2 == 0))
  assert rates == pytest.approx(
    {
      "peer_0/accuracy": zeros,
      "peer_1/accuracy": zeros,
      "peer_2/accuracy": 1 - zeros,
      "ensemble/accuracy": zeros,
      "disagreement": 2 / 3,
    }
  )


def test_bad_peers_are_named():
  peer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
  wide = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="peers has 1 networks; expected two"):
    collaborate([peer], create("mutual"), optax.sgd(0.1))
  with pytest.raises(ValueError, match="teachers is empty"):
    guide(peer, [], create("dgkd"), optax.sgd(0.1))
  learner = collaborate([peer, wide], create("mutual"), optax.sgd(0.1), on="x")
  state = learner.init(KEY, BATCH)
  with pytest.raises(ValueError, match="peers have the same classes"):
    learner.step(state, learner.frozen, BATCH, KEY)
