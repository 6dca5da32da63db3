"""Updates by the gradients of several domains, in a train step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kdjax import generalization, methods, training
from kdjax.ops import cross_entropy

KEY = jax.random.key(0)
DOMAINS, BATCH, CLASSES, WIDTH = 3, 4, 3, 5
RNG = np.random.default_rng(0)
BATCHES = {
  "x": jnp.asarray(RNG.normal(size=(DOMAINS, BATCH, WIDTH)), jnp.float32),
  "label": jnp.arange(DOMAINS * BATCH).reshape(DOMAINS, BATCH) % CLASSES,
  "mask": jnp.ones((DOMAINS, BATCH), bool),
}


def loss_of(params, batch):
  logits = batch["x"] @ params["kernel"] + params["bias"][None]
  return jnp.mean(cross_entropy(logits, batch["label"]))


def one_step(name, optimizer=None, **options):
  """The student before and after a step, by default of descent of rate 1."""
  student = nnx.Linear(WIDTH, CLASSES, rngs=nnx.Rngs(0))
  learner = training.generalize(
    student,
    methods.create(name, **options),
    optax.sgd(1.0) if optimizer is None else optimizer,
    on="x",
  )
  state = learner.init(KEY, BATCHES)
  moved, metrics = jax.jit(learner.step)(state, {}, BATCHES, KEY)
  before, after = (s.params["student"] for s in (state, moved))
  mean = jnp.mean(
    jnp.stack(
      [
        loss_of(before, jax.tree.map(lambda x, d=d: x[d], BATCHES))
        for d in range(DOMAINS)
      ]
    )
  )
  total, count = metrics["loss"]
  np.testing.assert_allclose(total / count, mean, rtol=1e-5)
  return before, after, moved


def close(tree, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    tree,
    expected,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "threshold"), [("andmask", 0.9), ("sandmask", 0.4)]
)
def test_masks_are_of_the_gradients_of_domains(name, threshold):
  mask = getattr(generalization, name)
  before, after, _ = one_step(name, threshold=threshold)
  _, gradients = generalization.domain_gradients(loss_of, before, BATCHES)
  masked = mask(gradients, threshold=threshold)
  plain = jax.tree.map(lambda x: jnp.mean(x, 0), gradients)
  assert not np.allclose(masked["kernel"], plain["kernel"])
  close(after, jax.tree.map(lambda p, g: p - g, before, masked))


def adam(params):
  optimizer = optax.adam(0.1)

  def update(gradients, state, params):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  return {"inner_update": update, "inner_state": optimizer.init(params)}


def test_fish_goes_part_of_the_way_and_keeps_adams_moments():
  before, after, state = one_step("fish", optax.adam(0.1), meta_step_size=0.3)
  result = generalization.fish(
    loss_of, before, BATCHES, meta_step_size=0.3, **adam(before)
  )
  close(after, result.params)
  kept = optax.tree.get(state.optimizer_state["optimizer"], "mu")["student"]
  close(kept, optax.tree.get(result.state, "mu"))


def sgd(params):
  return {
    "inner_update": lambda gradients, state, params: (
      jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients),
      state,
    ),
    "inner_state": (),
  }


@pytest.mark.slow
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("held", [1, 2])
def test_mldg_pairs_each_training_domain_with_one_held_out(held, first_order):
  before, after, state = one_step(
    "mldg",
    optax.sgd(0.1),
    beta=0.7,
    meta_test_domains=held,
    first_order=first_order,
  )
  assert state.optimizer_state["beta"] == jnp.float32(0.7)

  @jax.jit
  def gradient(order):
    train = order[: DOMAINS - held]
    test = jnp.resize(order[-held:], train.shape)

    def of_pair(i, j):
      one, other = (
        jax.tree.map(lambda x, d=d: x[d][None], BATCHES) for d in (i, j)
      )
      return jax.grad(generalization.mldg, 1)(
        loss_of,
        before,
        one,
        other,
        beta=0.7,
        first_order=first_order,
        **sgd(before),
      )

    pairs = [of_pair(*pair) for pair in zip(train, test, strict=True)]
    return jax.tree.map(lambda *x: 0.1 * sum(x) / DOMAINS, *pairs)

  # The order of the domains is drawn by the step's key.
  gaps = []
  for order in itertools.permutations(range(DOMAINS)):
    expected = gradient(jnp.array(order))
    found = jax.tree.map(lambda p, q: p - q, before, after)
    gaps.append(
      max(
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(
          jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
        )
      )
    )
  assert min(gaps) < 1e-6 < 1e-4 < max(gaps)
