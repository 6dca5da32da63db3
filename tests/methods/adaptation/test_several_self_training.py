"""Objectives of adaptation with labels, weights and views of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import adaptation, methods, reweighting
from kdjax.methods.adaptation.adversarial._advent import _advent
from kdjax.methods.adaptation.adversarial._iwan import _iwan
from kdjax.methods.adaptation.adversarial._osbp import _osbp
from kdjax.methods.adaptation.adversarial._pada import _pada
from kdjax.methods.adaptation.self_training._debiasmatch import _debiasmatch
from kdjax.methods.adaptation.self_training._gradual_self_training import (
  _gradual_self_training,
)
from kdjax.methods.adaptation.self_training._self_tuning import _self_tuning
from kdjax.methods.adaptation.self_training._shot import _shot
from kdjax.nets import Outputs
from kdjax.ops import cross_entropy

KEY = jax.random.key(0)
CLASSES, WIDTH = 3, 6
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


CLASSIFIER = normal(WIDTH, CLASSES), normal(CLASSES)


def linear(params, x):
  kernel, bias = params
  return x @ kernel + bias.reshape(*[1] * (x.ndim - 1), -1)


def outputs(*axes):
  embedding = 2 * normal(*axes, WIDTH)
  logits = linear(CLASSIFIER, embedding)
  return Outputs(logits, {}, embedding, classifier=CLASSIFIER)


ROLES = {
  "source": outputs(10),
  "target": outputs(8),
  "source_strong": outputs(10),
  "target_strong": outputs(8),
  "source_other": outputs(10),
  "target_other": outputs(8),
}
BATCH = {
  "source": {"mask": jnp.arange(10) < 9, "label": jnp.arange(10) % CLASSES},
  "target": {"mask": jnp.arange(8) < 7, "index": 11 - jnp.arange(8)},
}
LABELS, KNOWN = BATCH["source"]["label"], BATCH["source"]["mask"]
MASK, INDEX = BATCH["target"]["mask"], BATCH["target"]["index"]
SOURCE, TARGET = ROLES["source"], ROLES["target"]
MASKS = {"where_source": KNOWN, "where_target": MASK}


def start(objective, roles=None):
  return jax.jit(objective.init)(KEY, roles or ROLES)


def run(objective, params, state, roles=None, batch=None):
  """Loss, its gradient by parameters and roles, and what has moved."""

  @jax.jit
  def program(params, state, roles, batch):
    def loss(params, roles):
      value, moved, _ = objective.apply(params, state, roles, batch, KEY)
      return value, moved

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, roles)

  (value, moved), gradients = program(
    params, state, roles or ROLES, batch or BATCH
  )
  return value, gradients, moved


def close(value, expected, rtol=1e-5):
  np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-6)


def mean(values, mask):
  return jnp.sum(values * mask) / jnp.sum(mask)


@pytest.mark.slow
def test_shot_learns_its_own_labels_with_a_classifier_that_stays():
  objective = _shot(12, weight=0.4)
  _, state = start(objective)
  every = outputs(12)
  state = objective.renew(state, {"target": every})
  labels = adaptation.centroid_pseudo_labels(every.embedding, every.logits)
  np.testing.assert_array_equal(state["labels"], labels)
  value, (_, gradients), moved = run(objective, {}, state)
  known = adaptation.information_maximization_loss(TARGET.logits, where=MASK)
  pseudo = mean(cross_entropy(TARGET.logits, labels[INDEX]), MASK)
  close(value, known + 0.4 * pseudo)
  assert not any(np.any(x) for x in gradients["target"].classifier)
  assert np.any(gradients["target"].embedding)
  assert not any(np.any(x) for x in jax.tree.leaves(gradients["source"]))
  np.testing.assert_array_equal(moved["labels"], labels)


@pytest.mark.slow
def test_gradual_self_training_leaves_out_who_is_unsure():
  objective = _gradual_self_training(12, drop=0.5)
  _, state = start(objective)
  every = outputs(12)
  state = objective.renew(state, {"target": every})
  labels, kept, _ = adaptation.confident_pseudo_labels(every.logits, drop=0.5)
  assert 0 < np.sum(kept) < 12
  value, *_ = run(objective, {}, state)
  losses = cross_entropy(TARGET.logits, labels[INDEX])
  close(value, mean(losses, MASK & kept[INDEX]))


@pytest.mark.slow
def test_padas_classes_fade_when_it_is_renewed():
  objective = _pada(hidden=(5,), weight=0.5, scale=0.3)
  params, state = start(objective)
  np.testing.assert_array_equal(state["module"]["class_weights"], 1)
  every = outputs(12)
  state = objective.renew(state, {"target": every})
  classes = reweighting.pada_class_weights(every.logits)
  close(state["module"]["class_weights"], classes)
  value, (gradient, _), _ = run(objective, params, state)
  player = [
    (layer["kernel"], layer["bias"])
    for _, layer in sorted(params["discriminator"]["layers"].items())
  ]

  def judge(x):
    return linear(player[1], jnp.maximum(linear(player[0], x), 0))

  weights = classes[LABELS]
  task = mean(cross_entropy(SOURCE.logits, LABELS), KNOWN * weights)
  adversary = adaptation.dann_loss(
    judge(SOURCE.embedding),
    judge(TARGET.embedding),
    scaling="mean",
    source_weights=weights / mean(weights, KNOWN),
    **MASKS,
  )
  close(value, task + 0.5 * adversary)
  assert any(np.any(x) for x in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_iwans_first_discriminator_weighs_for_the_second():
  objective = _iwan(hidden=(), weight=2.0, entropy=0.2, scale=0.5)
  params, state = start(objective)
  value, (gradients, roles), _ = run(objective, params, state)

  def expected(first, second, embeddings):
    held = [linear(first, x) for x in jax.lax.stop_gradient(embeddings)]
    weights = reweighting.iwan_weights(held[0], where=KNOWN)
    rivals = [linear(second, x) for x in embeddings]
    told = adaptation.dann_loss(*held, scaling="mean", **MASKS)
    fooled = adaptation.dann_loss(
      *rivals, scaling="mean", source_weights=weights, **MASKS
    )
    unsure = mean(adaptation.entropy_loss(TARGET.logits), MASK)
    return 1.5 * 2 * told + 2 * fooled + 0.2 * unsure

  players = [
    (params[k]["layers"][0]["kernel"], params[k]["layers"][0]["bias"])
    for k in ("first", "second")
  ]
  embeddings = SOURCE.embedding, TARGET.embedding
  loss, slopes = jax.value_and_grad(expected, (0, 1, 2))(*players, embeddings)
  close(value, loss)
  close(gradients["first"]["layers"][0]["kernel"], slopes[0][0])
  close(gradients["second"]["layers"][0]["kernel"], slopes[1][0])
  close(roles["source"].embedding, -0.5 * slopes[2][0])
  close(roles["target"].embedding, -0.5 * slopes[2][1])


@pytest.mark.slow
def test_debiasmatchs_mean_prediction_moves_before_its_loss():
  objective = _debiasmatch(
    weight=0.5, strong=0.2, strength=0.8, momentum=0.6, threshold=0.4
  ).objective
  _, state = start(objective)
  value, _, moved = run(objective, {}, state)
  prior = adaptation.debias_update(
    jnp.ones(CLASSES) / CLASSES, TARGET.logits, momentum=0.6, where=MASK
  )
  close(moved["prior"], prior)
  pseudo = adaptation.fixmatch_loss(
    adaptation.debias_logits(
      ROLES["target_strong"].logits, prior, strength=0.8
    ),
    adaptation.debias_logits(TARGET.logits, prior, strength=-0.8),
    threshold=0.4,
  )
  known = cross_entropy(ROLES["source_strong"].logits, LABELS)
  close(value, 0.2 * mean(known, KNOWN) + 0.5 * mean(pseudo, MASK))


@pytest.mark.slow
def test_self_tunings_labeled_keys_join_the_queue_before_the_others():
  objective = _self_tuning(CLASSES, dims=4, size=3, temperature=0.5).objective
  params, state = start(objective)
  value, _, moved = run(objective, params, state)
  module = state["module"]

  def projected(x):
    rows = linear((params["kernel"], params["bias"]), x)
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)

  queue = adaptation.SelfTuningQueue(module["keys"], module["position"])
  expected = 0.0
  predicted = jnp.argmax(TARGET.logits, -1)
  for role, labels, mask in (
    ("source", LABELS, KNOWN),
    ("target", predicted, MASK),
  ):
    # At first the average is the projector itself.
    keys = projected(ROLES[f"{role}_other"].embedding)
    losses = adaptation.self_tuning_loss(
      projected(ROLES[role].embedding), keys, labels, queue, temperature=0.5
    )
    expected += mean(losses, mask)
    labels = jnp.where(mask, labels, -1)
    queue = adaptation.self_tuning_update(queue, keys, labels)
  close(value, expected, rtol=1e-4)
  close(moved["module"]["keys"], queue.keys, rtol=1e-4)


@pytest.mark.slow
def test_osbps_features_do_what_its_classifier_does_not():
  objective = _osbp(unknown_share=0.3)
  value, (_, gradients), _ = run(objective, *start(objective))

  def expected(embedding, classifier):
    logits = linear(classifier, embedding)
    return mean(adaptation.osbp_loss(logits, unknown_share=0.3), MASK)

  loss, slopes = jax.value_and_grad(expected, (0, 1))(
    TARGET.embedding, CLASSIFIER
  )
  close(value, loss)
  close(gradients["target"].embedding, -slopes[0])
  for gradient, slope in zip(
    gradients["target"].classifier, slopes[1], strict=True
  ):
    close(gradient, slope)


@pytest.mark.slow
def test_advents_student_fools_a_discriminator_of_patches():
  roles = {
    k: Outputs(normal(n, 8, 8, CLASSES), {}, None)
    for k, n in (("source", 10), ("target", 8))
  }
  objective = _advent(weight=0.5, hidden=(4,))
  params, state = start(objective, roles)
  value, (gradient, seen), _ = run(objective, params, state, roles)
  assert not any(np.any(x) for x in jax.tree.leaves(seen["source"]))
  slopes = np.asarray(seen["target"].logits)
  assert np.any(slopes[:7])
  assert not np.any(slopes[7:])  # padding
  assert any(np.any(x) for x in jax.tree.leaves(gradient))
  # The discriminator's gradient is that of its own loss alone.
  other = _advent(weight=0.0, hidden=(4,))
  told, (alone, _), _ = run(other, *start(other, roles), roles)
  jax.tree.map(close, gradient, alone)
  assert value > told
  with pytest.raises(ValueError, match="expected maps"):
    _advent().init(KEY, ROLES)


@pytest.mark.parametrize("name", ["shot", "pada", "gradual_self_training"])
def test_a_preset_renews_what_its_method_does(name):
  objective = methods.create(name, num_examples=12, steps=5).objective
  _, state = start(objective)
  every = {"target": outputs(12)}
  renewed = objective.renew(state, every)
  own = objective.renew is not None and renewed["objectives"][name]
  before = state["objectives"][name]
  same = jax.tree.map(lambda a, b: bool(np.all(a == b)), own, before)
  assert not all(jax.tree.leaves(same))
  assert methods.create("mmd").objective.renew is None
