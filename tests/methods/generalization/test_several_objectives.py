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


def part(name, **options):
  """The method's own part of the objective, beside the cross-entropy."""
  made = methods.describe(name).make(**options)
  return made.objective if isinstance(made, methods.Method) else made


def prepare(name, batch, look=None, **options):
  """The batch as the method prepares it."""
  return methods.create(name, **options).prepare(KEY, batch, look, on="image")


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
  objective = part("irm", weight=7.0, anneal_steps=1)
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
  value, *_ = run(part("vrex", weight=5.0, anneal_steps=0), mask=MASK)
  counts = jnp.sum(MASK, 1)
  means = jnp.sum(LOSSES * MASK, 1) / counts
  close(value, 5 * generalization.vrex_penalty(means))


@pytest.mark.slow
def test_fishr_says_nothing_before_its_step_and_still_averages():
  objective = part("fishr", weight=3.0, anneal_steps=1)
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
  value, *_, (_, moved) = run(part("group_dro", step_size=0.5))
  result = generalization.group_dro(
    jnp.mean(LOSSES, 1), jnp.ones(DOMAINS) / DOMAINS, 0.5
  )
  close(value, result.loss)
  close(moved["module"]["weights"], result.weights)


@pytest.mark.slow
def test_rsc_mutes_features_of_the_students_classifier():
  value, *_ = run(part("rsc", drop=0.4))
  features, labels = STUDENT.embedding.reshape(-1, WIDTH), LABELS.reshape(-1)

  def classify(features):
    return linear(CLASSIFIER, features)

  mask = generalization.rsc_mask(
    classify, features, labels, feature_drop=0.4, batch_drop=0.4
  )
  assert not np.all(mask)
  close(value, jnp.mean(cross_entropy(classify(features * mask), labels)))


@pytest.mark.slow
def test_sagnets_parts_are_content_style_and_adversary():
  objective = part("sagnet", weight=0.3)
  params, state = objective.init(KEY, {"student": STUDENT})
  style = params["kernel"], params["bias"]
  features, labels = STUDENT.embedding.reshape(-1, WIDTH), LABELS.reshape(-1)

  def swapped(key, part):
    return generalization.sagnet_randomize(
      features=features, key=key, part=part
    )

  content = linear(CLASSIFIER, swapped(KEY, "style"))
  told, fooled = (
    linear(style, swapped(jax.random.fold_in(KEY, i), "content"))
    for i in (1, 2)
  )
  expected = {
    "content": jnp.mean(cross_entropy(content, labels)),
    "style": jnp.mean(cross_entropy(told, labels)),
    "adversary": 0.3 * jnp.mean(generalization.sagnet_adversarial_loss(fooled)),
  }
  assert set(objective.parts) == set(expected)
  batch = {"label": LABELS, "mask": jnp.ones_like(MASK)}
  for name, own in objective.parts.items():
    value, *_ = own(params, state, {"student": STUDENT}, batch, KEY)
    close(value, expected[name])


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
  value, *_ = run(part("crossgrad"), roles)
  close(value, jnp.mean(student + mixed(judge, judge_moved, IDS)))
  value, *_ = run(part("ddaig"), roles)
  generator = generalization.ddaig_generator_loss(
    hidden, LABELS, judge_hidden, IDS
  )
  close(value, jnp.mean(generator + student + cross_entropy(judge, IDS)))


@pytest.mark.slow
def test_dael_has_an_expert_for_each_domain_which_answer_together():
  objective = part("dg_dael", weight=0.5)
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
  objective = part("difex", weight=0.2)
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
    batch = prepare("mixup", BATCHED, alpha=0.5)
    result = generalization.mixup(
      inputs=IMAGES, labels=LABELS, key=KEY, alpha=0.5
    )
  else:
    batch = prepare("domainmix", BATCHED, alpha=0.5)
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
  value, *_ = run(part("mixup"), label=batch["label"], **entries)
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
@pytest.mark.parametrize("scaling", ["mean", "sum"])
def test_crossgrads_images_are_moved_by_the_other_network(scaling):
  options = {"epsilon": 2.0, "scaling": scaling}
  batch = prepare("crossgrad", BATCHED, look(1.5), **options)
  for entry, network, labels in (
    ("moved", "judge", IDS),
    ("moved_by_label", "student", LABELS),
  ):

    def losses(images, network=network, labels=labels):
      logits = look(1.5)(network, images).logits
      return cross_entropy(logits, labels.reshape(-1))

    expected = generalization.crossgrad(
      losses, IMAGES.reshape(-1, 8, 8, 1), epsilon=2.0, scaling=scaling
    )
    close(batch[entry], expected.reshape(IMAGES.shape))
    assert not np.allclose(batch[entry], IMAGES)


@pytest.mark.slow
def test_ddaigs_generator_learns_through_one_entry_alone():
  options = {"perturbation": 0.5}

  def hidden(scale, entry):
    def run(name, images, *, gradient):
      assert name == "generator"
      assert gradient
      return Outputs(scale * images.reshape(len(images), -1), {}, None)

    return jnp.sum(prepare("ddaig", BATCHED, run, **options)[entry] ** 2)

  slopes = {k: jax.grad(hidden)(0.3, k) for k in ("hidden", "moved")}
  assert slopes["moved"] == 0
  assert slopes["hidden"] != 0
  batch = prepare("ddaig", BATCHED, look(1.0), **options)
  expected = generalization.ddaig(
    IMAGES.reshape(-1, 8, 8, 1),
    jnp.tanh(0.1 * IMAGES.reshape(-1, 8, 8, 1)),
    weight=0.5,
  )
  close(batch["moved"], expected.reshape(IMAGES.shape))


def test_difexs_batch_has_phases():
  batch = prepare("difex", BATCHED)
  close(batch["phase"], generalization.fourier_phase(IMAGES))
