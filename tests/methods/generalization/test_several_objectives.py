"""Objectives of several domains: what each adds to its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import generalization, methods
from kdjax.nets import Outputs
from kdjax.ops import cross_entropy

KEY = jax.random.key(0)
DOMAINS, BATCH, CLASSES, WIDTH = 3, 4, 3, 6
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


CLASSIFIER = normal(WIDTH, CLASSES), normal(CLASSES)


def linear(params, x):
  kernel, bias = params
  return x @ kernel + bias.reshape(*[1] * (x.ndim - 1), -1)


def outputs():
  embedding = normal(DOMAINS, BATCH, WIDTH)
  logits = linear(CLASSIFIER, embedding)
  return Outputs(logits, {}, embedding, classifier=CLASSIFIER)


STUDENT, STRONG = outputs(), outputs()
LABELS = jnp.arange(DOMAINS * BATCH).reshape(DOMAINS, BATCH) % CLASSES
MASK = jnp.ones((DOMAINS, BATCH), bool).at[1, 2].set(False)
LOSSES = cross_entropy(STUDENT.logits, LABELS)
IDS = jnp.broadcast_to(jnp.arange(DOMAINS)[:, None], (DOMAINS, BATCH))


def run(objective, roles=None, key=KEY, **entries):
  """The first loss, its gradient by roles, the parameters and the states."""
  roles = {"student": STUDENT} | (roles or {})
  batch = {"label": LABELS, "mask": jnp.ones_like(MASK)} | entries

  @jax.jit
  def program(roles, batch):
    params, state = objective.init(key, roles)

    def loss(roles):
      value, moved, _ = objective.apply(params, state, roles, batch, key)
      return value, moved

    (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(roles)
    return value, gradient, params, (state, moved)

  return program(roles, batch)


def close(value, expected, rtol=1e-5):
  np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-6)


@pytest.mark.slow
def test_irm_jumps_from_one_to_its_weight():
  objective = methods.irm(weight=7.0, anneal_steps=1)
  penalty = jnp.mean(
    generalization.irm_penalty(STUDENT.logits, LABELS, where=MASK)
  )
  first, *_, (_, moved) = run(objective, mask=MASK)
  close(first, penalty)
  batch = {"label": LABELS, "mask": MASK}
  later, *_ = objective.apply({}, moved, {"student": STUDENT}, batch, KEY)
  close(later, 7 * penalty)
  assert moved["weight"] == 7.0


@pytest.mark.slow
def test_vrex_is_the_variance_of_the_domains_losses():
  value, *_ = run(methods.vrex(weight=5.0, anneal_steps=0), mask=MASK)
  counts = jnp.sum(MASK, 1)
  means = jnp.sum(LOSSES * MASK, 1) / counts
  close(value, 5 * generalization.vrex_penalty(means))


@pytest.mark.slow
def test_fishr_says_nothing_before_its_step_and_still_averages():
  objective = methods.fishr(weight=3.0, anneal_steps=1)
  value, *_, (_, moved) = run(objective)
  assert value == 0
  rows = STUDENT.embedding, STUDENT.logits, LABELS
  start = generalization.FishrState(
    jnp.zeros((DOMAINS, CLASSES, WIDTH)), jnp.zeros((DOMAINS, CLASSES))
  )
  _, state = generalization.fishr_penalty(*rows, start)
  penalty, _ = generalization.fishr_penalty(*rows, state)
  batch = {"label": LABELS, "mask": jnp.ones_like(MASK)}
  later, *_ = objective.apply({}, moved, {"student": STUDENT}, batch, KEY)
  close(later, 3 * penalty, rtol=1e-4)


@pytest.mark.slow
def test_group_dro_remembers_the_weights_of_domains():
  value, *_, (_, moved) = run(methods.group_dro(step_size=0.5))
  result = generalization.group_dro(
    jnp.mean(LOSSES, 1), jnp.ones(DOMAINS) / DOMAINS, 0.5
  )
  close(value, result.loss)
  close(moved["module"]["weights"], result.weights)


@pytest.mark.slow
def test_rsc_mutes_features_of_the_students_classifier():
  value, *_ = run(methods.rsc(drop=0.4))
  features, labels = STUDENT.embedding.reshape(-1, WIDTH), LABELS.reshape(-1)

  def classify(features):
    return linear(CLASSIFIER, features)

  mask = generalization.rsc_mask(
    classify, features, labels, feature_drop=0.4, batch_drop=0.4
  )
  assert not np.all(mask)
  close(value, jnp.mean(cross_entropy(classify(features * mask), labels)))


@pytest.mark.slow
def test_sagnets_style_learns_and_the_student_hides_it():
  objective = methods.sagnet(weight=0.3)
  value, gradients, params, _ = run(objective)
  style = params["kernel"], params["bias"]

  def expected(embedding):
    features, labels = embedding.reshape(-1, WIDTH), LABELS.reshape(-1)
    keys = jax.random.split(KEY, 3)

    def swap(features, key, part):
      return generalization.sagnet_randomize(
        features=features, key=key, part=part
      )

    content = linear(CLASSIFIER, swap(features, keys[0], "style"))
    held = jax.lax.stop_gradient(features)
    told = linear(style, swap(held, keys[1], "content"))
    fooled = linear(style, swap(features, keys[2], "content"))
    losses = cross_entropy(content, labels) + cross_entropy(told, labels)
    adversary = generalization.sagnet_adversarial_loss(fooled)
    return jnp.mean(losses + 0.3 * adversary)

  loss, gradient = jax.value_and_grad(expected)(STUDENT.embedding)
  close(value, loss)
  close(gradients["student"].embedding, gradient)


@pytest.mark.slow
def test_crossgrad_and_ddaig_train_a_judge_of_domains():
  roles = {
    name: outputs()
    for name in (
      "student_moved",
      "student_hidden",
      "judge",
      "judge_moved",
      "judge_hidden",
    )
  }
  moved, hidden, judge, judge_moved, judge_hidden = (
    x.logits for x in roles.values()
  )

  def mixed(first, second, labels):
    return generalization.augmented_loss(
      cross_entropy(first, labels), cross_entropy(second, labels)
    )

  student = mixed(STUDENT.logits, moved, LABELS)
  value, *_ = run(methods.crossgrad(), roles)
  close(value, jnp.mean(student + mixed(judge, judge_moved, IDS)))
  value, *_ = run(methods.ddaig(), roles)
  generator = generalization.ddaig_generator_loss(
    hidden, LABELS, judge_hidden, IDS
  )
  close(value, jnp.mean(generator + student + cross_entropy(judge, IDS)))


@pytest.mark.slow
def test_dael_has_an_expert_for_each_domain_which_answer_together():
  objective = methods.dael_dg(weight=0.5)
  value, _, params, (state, _) = run(objective, {"student_strong": STRONG})

  def answers(x):
    return jnp.stack(
      [
        linear(pair, x)
        for pair in zip(params["kernel"], params["bias"], strict=True)
      ]
    )

  own = jnp.stack([answers(STUDENT.embedding)[d, d] for d in range(DOMAINS)])
  others = jnp.swapaxes(answers(STRONG.embedding), 0, 1)
  expected = generalization.dael_expert_loss(own, LABELS)
  expected += 0.5 * generalization.dael_consistency_loss(others, own)
  close(value, jnp.mean(expected))
  alone = STUDENT._replace(embedding=STUDENT.embedding[0])
  logits = objective.predict(params, state, {"student": alone})
  probabilities = jax.nn.softmax(answers(alone.embedding))
  close(logits, jnp.log(jnp.mean(probabilities, 0)))


@pytest.mark.slow
def test_difex_teaches_half_of_the_features_phases():
  phases = outputs()
  objective = methods.difex(weight=0.2)
  value, _, params, _ = run(objective, {"phases": phases})
  heads = {k: (v["kernel"], v["bias"]) for k, v in params.items()}
  told = linear(heads["bottleneck"], phases.embedding)
  taught = cross_entropy(linear(heads["classifier"], told), LABELS)
  terms = generalization.difex_loss(STUDENT.embedding, told, form="norm-2-norm")
  close(value, jnp.mean(taught) + 0.2 * sum(terms))


IMAGES = normal(DOMAINS, BATCH, 8, 8, 1)
BATCHED = {"image": IMAGES, "label": LABELS, "mask": jnp.ones_like(MASK)}


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_mixed_batches_are_those_of_their_loss(whole):
  if whole:
    batch = methods.mixup_batch(alpha=0.5)(KEY, BATCHED, None)
    result = generalization.mixup(
      inputs=IMAGES, labels=LABELS, key=KEY, alpha=0.5
    )
  else:
    batch = methods.domainmix_batch(alpha=0.5)(KEY, BATCHED, None)
    result = generalization.domainmix(
      inputs=IMAGES.reshape(-1, 8, 8, 1),
      labels=LABELS.reshape(-1),
      domains=IDS.reshape(-1),
      key=KEY,
      alpha=0.5,
      beta=0.5,
    )
  close(batch["image"], result.inputs.reshape(IMAGES.shape))
  assert not np.allclose(batch["image"], IMAGES)
  entries = {k: batch[k] for k in ("partner_label", "mixing_weight")}
  value, *_ = run(methods.mixed(), label=batch["label"], **entries)
  expected = generalization.mixed_loss(
    STUDENT.logits.reshape(*result.labels.shape, CLASSES), *result[1:4]
  )
  close(value, jnp.mean(expected))


def look(weight):
  """A network of one number for the prepared batches."""

  def run(name, images, *, gradient=False):
    scale = {"student": weight, "judge": -weight, "generator": 0.1}[name]
    pixels = images.reshape(len(images), -1)
    logits = scale * (pixels if name == "generator" else pixels[:, :CLASSES])
    return Outputs(logits, {}, None)

  return run


@pytest.mark.slow
def test_crossgrads_images_are_moved_by_the_other_network():
  batch = methods.crossgrad_batch(epsilon=2.0)(KEY, BATCHED, look(1.5))
  for entry, network, labels in (
    ("moved", "judge", IDS),
    ("moved_by_label", "student", LABELS),
  ):

    def losses(images, network=network, labels=labels):
      logits = look(1.5)(network, images).logits
      return cross_entropy(logits, labels.reshape(-1))

    expected = generalization.crossgrad(
      losses, IMAGES.reshape(-1, 8, 8, 1), epsilon=2.0, scaling="sum"
    )
    close(batch[entry], expected.reshape(IMAGES.shape))
    assert not np.allclose(batch[entry], IMAGES)


@pytest.mark.slow
def test_ddaigs_generator_learns_through_one_entry_alone():
  make = methods.ddaig_batch(perturbation=0.5)

  def hidden(scale, entry):
    def run(name, images, *, gradient):
      assert name == "generator"
      assert gradient
      return Outputs(scale * images.reshape(len(images), -1), {}, None)

    return jnp.sum(make(KEY, BATCHED, run)[entry] ** 2)

  slopes = {k: jax.grad(hidden)(0.3, k) for k in ("hidden", "moved")}
  assert slopes["moved"] == 0
  assert slopes["hidden"] != 0
  batch = make(KEY, BATCHED, look(1.0))
  expected = generalization.ddaig(
    IMAGES.reshape(-1, 8, 8, 1),
    jnp.tanh(0.1 * IMAGES.reshape(-1, 8, 8, 1)),
    weight=0.5,
  )
  close(batch["moved"], expected.reshape(IMAGES.shape))


def test_difexs_batch_has_phases():
  batch = methods.difex_batch()(KEY, BATCHED, None)
  close(batch["phase"], generalization.fourier_phase(IMAGES))
