"""Gradient rules of several domains, in a train step."""

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


def one_step(rule):
  """The student before and after a step of gradient descent of rate 1."""
  student = nnx.Linear(WIDTH, CLASSES, rngs=nnx.Rngs(0))
  learner = training.generalize(
    student, methods.preset("erm"), optax.sgd(1.0), on="x", rule=rule
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
  ("rule", "mask", "threshold"),
  [
    (methods.andmask_gradients, generalization.andmask, 0.9),
    (methods.sandmask_gradients, generalization.sandmask, 0.4),
  ],
)
def test_masks_are_of_the_gradients_of_domains(rule, mask, threshold):
  before, after, _ = one_step(rule(threshold=threshold))
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
  rule = methods.fish_gradients(optax.adam(0.1), meta_step_size=0.3)
  before, after, state = one_step(rule)
  result = generalization.fish(
    loss_of, before, BATCHES, meta_step_size=0.3, **adam(before)
  )
  close(after, result.params)
  kept = optax.tree.get(state.rule_state["inner"], "mu")["student"]
  close(kept, optax.tree.get(result.state, "mu"))


@pytest.mark.slow
@pytest.mark.parametrize("first_order", [True, False])
def test_mldg_holds_one_domain_out(first_order):
  rule = methods.mldg_gradients(
    optax.adam(0.1), beta=0.7, first_order=first_order
  )
  before, after, state = one_step(rule)
  assert state.rule_state["beta"] == jnp.float32(0.7)

  def gradient(held_out):
    order = [d for d in range(DOMAINS) if d != held_out]
    train, test = (
      jax.tree.map(lambda x, part=part: x[jnp.array(part)], BATCHES)
      for part in (order, [held_out])
    )
    return jax.grad(generalization.mldg, 1)(
      loss_of,
      before,
      train,
      test,
      beta=0.7,
      first_order=first_order,
      **adam(before),
    )

  candidates = [
    jax.tree.map(lambda p, g: p - g, before, gradient(d))
    for d in range(DOMAINS)
  ]
  # Which domain is held out the step's key decides.
  gaps = [
    max(
      float(jnp.max(jnp.abs(a - b)))
      for a, b in zip(
        jax.tree.leaves(after), jax.tree.leaves(other), strict=True
      )
    )
    for other in candidates
  ]
  assert sorted(gaps)[0] < 1e-5 < sorted(gaps)[1]
