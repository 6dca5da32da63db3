"""Objectives of adaptation with labels, weights and views of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import adaptation, methods, reweighting, transforms
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
  "source_average": outputs(10),
  "target_average": outputs(8),
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
  objective = methods.shot(12, weight=0.4)
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
  objective = methods.gradual_self_training(12, drop=0.5)
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
  objective = methods.pada(hidden=(5,), weight=0.5, scale=0.3)
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
  objective = methods.iwan(hidden=(), weight=2.0, entropy=0.2, scale=0.5)
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
  objective = methods.debiasmatch(
    weight=0.5, strong=0.2, strength=0.8, momentum=0.6, threshold=0.4
  )
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
  objective = methods.self_tuning(CLASSES, dims=4, size=3, temperature=0.5)
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
    keys = projected(ROLES[f"{role}_average"].embedding)
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
  objective = methods.osbp(unknown_share=0.3)
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
  objective = methods.advent(weight=0.5, hidden=(4,))
  params, state = start(objective, roles)
  value, (gradient, seen), _ = run(objective, params, state, roles)
  assert not any(np.any(x) for x in jax.tree.leaves(seen["source"]))
  slopes = np.asarray(seen["target"].logits)
  assert np.any(slopes[:7])
  assert not np.any(slopes[7:])  # padding
  assert any(np.any(x) for x in jax.tree.leaves(gradient))
  # The discriminator's gradient is that of its own loss alone.
  other = methods.advent(weight=0.0, hidden=(4,))
  told, (alone, _), _ = run(other, *start(other, roles), roles)
  jax.tree.map(close, gradient, alone)
  assert value > told
  with pytest.raises(ValueError, match="expected maps"):
    methods.advent().init(KEY, ROLES)


@pytest.mark.slow
def test_dael_averages_the_experts_of_many_sources():
  roles = ROLES | {"source": outputs(2, 5), "source_strong": outputs(2, 5)}
  batch = {
    "source": {"mask": jnp.ones((2, 5), bool), "label": LABELS.reshape(2, 5)},
    "target": BATCH["target"],
  }
  objective = methods.dael(weight=0.25, threshold=0.5)
  params, state = start(objective, roles)
  value, *_ = run(objective, params, state, roles, batch)
  dg = methods.dael_dg(weight=1.0)
  own, *_ = run(
    dg,
    params,
    start(dg, {"student": roles["source"]})[1],
    {"student": roles["source"], "student_strong": roles["source_strong"]},
    batch["source"],
  )

  def answers(x):
    return jnp.stack(
      [
        linear(pair, x)
        for pair in zip(params["kernel"], params["bias"], strict=True)
      ]
    )

  taught = adaptation.dael_loss(
    answers(ROLES["target_strong"].embedding),
    answers(TARGET.embedding),
    threshold=0.5,
  )
  close(value, own + 0.25 * mean(taught, MASK))


@pytest.mark.slow
def test_mixmatch_mixes_labels_as_it_mixes_images_and_ramps():
  images = {k: normal(n, 2, 2, 1) for k, n in (("source", 10), ("target", 8))}
  batch = {k: BATCH[k] | {"image": images[k]} for k in BATCH}

  def answer(name, inputs):
    assert name == "student"
    return Outputs(inputs.reshape(len(inputs), -1)[:, :CLASSES], {}, None)

  prepare = methods.mixmatch_batch(lambda key, x: x, alpha=0.5)
  mixed = prepare(KEY, batch, answer)
  close(jnp.sum(mixed["source"]["soft"], -1), jnp.ones(10))
  close(jnp.sum(mixed["target"]["soft"], -1), jnp.ones(8))
  # A share of its own label of at least a half: the largest of the mixture.
  known = jnp.take_along_axis(mixed["source"]["soft"], LABELS[:, None], 1)
  assert np.all(known >= 0.5 - 1e-6)
  assert not np.allclose(mixed["target"]["image"], images["target"])
  objective = methods.mixmatch(4, weight=10.0)
  _, state = start(objective)
  first, _, moved = run(objective, {}, state, batch=mixed)
  second, *_ = run(objective, {}, moved, batch=mixed)
  task = optax.softmax_cross_entropy(SOURCE.logits, mixed["source"]["soft"])
  guessed = adaptation.mixmatch_loss(TARGET.logits, mixed["target"]["soft"])
  close(first, mean(task, KNOWN))
  close(second, mean(task, KNOWN) + 10 * 0.25 * mean(guessed, MASK))


@pytest.mark.slow
def test_prepared_batches_change_what_they_say_and_nothing_else():
  batch = {
    k: part | {"image": normal(len(part["mask"][:8]), 4, 4, 1)}
    for k, part in BATCH.items()
  }
  sent = methods.fda_batch(half_width=1)(KEY, batch, None)
  close(
    sent["source"]["image"],
    transforms.fourier_domain_adaptation(
      batch["source"]["image"], batch["target"]["image"], half_width=1
    ),
  )
  assert sent["target"] is batch["target"]
  views = methods.domain_views(lambda key, x: x + 1, name="other")
  seen = views(KEY, batch, None)
  for domain in ("source", "target"):
    close(seen[domain]["other"], batch[domain]["image"] + 1)
    np.testing.assert_array_equal(seen[domain]["mask"], BATCH[domain]["mask"])


@pytest.mark.parametrize("name", ["shot", "pada", "gradual_self_training"])
def test_a_preset_renews_what_its_method_does(name):
  objective = methods.preset(name, num_examples=12, steps=5)
  _, state = start(objective)
  every = {"target": outputs(12)}
  renewed = objective.renew(state, every)
  own = objective.renew is not None and renewed["objectives"][name]
  before = state["objectives"][name]
  same = jax.tree.map(lambda a, b: bool(np.all(a == b)), own, before)
  assert not all(jax.tree.leaves(same))
  assert methods.preset("mmd").renew is None
