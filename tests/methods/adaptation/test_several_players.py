"""Objectives of two domains: who learns what, predictions, devices, words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax import adaptation
from kdjax.methods import stateless
from kdjax.methods.adaptation.adversarial._cdan import _cdan
from kdjax.methods.adaptation.adversarial._dann import dann
from kdjax.methods.adaptation.adversarial._jda import _jda
from kdjax.methods.adaptation.adversarial._mdd import _mdd
from kdjax.methods.adaptation.self_training._cdac import _cdac
from kdjax.methods.adaptation.self_training._dst import _dst
from kdjax.methods.adaptation.self_training._flexmatch import _flexmatch
from kdjax.nets import Outputs
from kdjax.ops import cross_entropy

KEY = jax.random.key(0)
CLASSES, WIDTH = 3, 6


def outputs(seed, size):
  rng = np.random.default_rng(seed)
  logits, embedding = (
    jnp.asarray(2 * rng.normal(size=(size, width)), jnp.float32)
    for width in (CLASSES, WIDTH)
  )
  return Outputs(logits, {}, embedding)


SOURCE, TARGET = outputs(0, 16), outputs(1, 8)
# Roles that get no gradient in these tests, but for the strong view.
OTHERS = {
  "source_teacher": outputs(10, 16),
  "target_strong": outputs(11, 8),
  "target_strong_2": outputs(12, 8),
  "target_teacher": outputs(13, 8),
}
STRONG = OTHERS["target_strong"]
SPECS = {"source": SOURCE, "target": TARGET} | OTHERS
BATCH = {
  "source": {"mask": jnp.arange(16) < 13, "label": jnp.arange(16) % CLASSES},
  "target": {"mask": jnp.arange(8) < 7, "index": jnp.arange(8)},
}
LABELS = BATCH["source"]["label"]
OBJECTIVES = {
  "dann": functools.partial(dann, hidden=(5,), scale=0.3),
  "cdan": functools.partial(_cdan, hidden=(5,), entropy=True),
  "cdan, randomised": functools.partial(
    _cdan, hidden=(), mapped=7, scaling="mean"
  ),
  "jda": functools.partial(_jda, hidden=(5,), weight=0.7),
  "mdd": functools.partial(_mdd, hidden=(5,)),
  "dst": functools.partial(_dst, hidden=(5,), threshold=0.5),
  "cdac": functools.partial(
    _cdac, temperature=0.5, threshold=0.4, num_largest=2
  ),
  "flexmatch": functools.partial(_flexmatch, num_examples=8, threshold=0.6),
}


def step(objective, params, state, source, target, others, batch):
  """Loss, gradients of parameters and roles, and what has moved."""

  def loss(params, source, target, others):
    roles = {"source": source, "target": target} | others
    value, moved, metrics = objective.apply(params, state, roles, batch, KEY)
    return value, (moved, metrics)

  (value, aux), gradients = jax.value_and_grad(
    loss, (0, 1, 2, 3), has_aux=True
  )(params, source, target, others)
  return value, gradients, *aux


@functools.cache
def start(name):
  objective = OBJECTIVES[name]()
  return jax.jit(objective.init)(KEY, SPECS)


@functools.cache
def of_one_device(name):
  program = jax.jit(functools.partial(step, OBJECTIVES[name]()))
  return program, program(*start(name), SOURCE, TARGET, OTHERS, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_eight_devices_equal_one(name):
  objective = OBJECTIVES[name]()

  def on_device(params, state, roles, batch):
    def loss(params):
      value, moved, metrics = objective.apply(
        params, state, roles, batch, KEY, axis_name="batch"
      )
      return jax.lax.pmean(value, "batch"), (moved, metrics)

    (value, (moved, metrics)), gradient = jax.value_and_grad(
      loss, has_aux=True
    )(params)
    gradient = jax.lax.pmean(gradient, "batch")
    return value, gradient, moved, jax.lax.psum(metrics, "batch")

  mesh = jax.make_mesh(
    (8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  shards = P("batch")
  sharded = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(P(), P(), shards, shards),
    out_specs=P(),
  )
  value, gradient, moved, metrics = jax.jit(sharded)(*start(name), SPECS, BATCH)
  _, (expected, gradients, state, pairs) = of_one_device(name)
  total, count = metrics["loss"]
  assert count == pairs["loss"][1]
  for a, b in zip(
    jax.tree.leaves((value, gradient, moved, total)),
    jax.tree.leaves((expected, gradients[0], state, pairs["loss"][0])),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_does_not_matter(name):
  program, (value, gradients, *_) = of_one_device(name)

  def spoil(tree, mask):
    return jax.tree.map(lambda x: jnp.where(mask.reshape(-1, 1), x, 7.0), tree)

  masks = {name: part["mask"] for name, part in BATCH.items()}
  source = spoil(SOURCE, masks["source"])
  target = spoil(TARGET, masks["target"])
  views = {k: spoil(v, masks[k.partition("_")[0]]) for k, v in OTHERS.items()}
  again, others, *_ = program(*start(name), source, target, views, BATCH)
  np.testing.assert_allclose(again, value, rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(others[0]), jax.tree.leaves(gradients[0]), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  gradients = {"source": others[1], "target": others[2]} | others[3]
  for role, gradient in gradients.items():
    padding = ~np.asarray(masks[role.partition("_")[0]])
    for x in jax.tree.leaves(gradient):
      assert not np.any(np.asarray(x)[padding])


def perceptron(player, x):
  *hidden, last = [player["layers"][i] for i in sorted(player["layers"])]
  for layer in hidden:
    x = jnp.maximum(x @ layer["kernel"] + layer["bias"][None], 0)
  return x @ last["kernel"] + last["bias"][None]


MASKS = {
  "where_source": BATCH["source"]["mask"],
  "where_target": BATCH["target"]["mask"],
}


def domain_loss(params, source, target):
  logits = (perceptron(params["discriminator"], x) for x in (source, target))
  return adaptation.dann_loss(*logits, **MASKS)


def close(a, b, factor=1.0):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      x, factor * y, rtol=1e-4, atol=1e-6
    ),
    a,
    b,
  )


@pytest.mark.slow
def test_players_start_as_their_authors_do():
  """PyTorch's layers are uniform in +-1/sqrt(width); MDD's is normal(0.01)."""
  params, _ = dann(hidden=(500,)).init(KEY, SPECS)
  layer = params["discriminator"]["layers"][0]
  for name in ("kernel", "bias"):
    largest = np.abs(layer[name]).max()
    np.testing.assert_allclose(largest, WIDTH**-0.5, rtol=0.01)
  params, _ = _mdd(hidden=(500,)).init(KEY, SPECS)
  layer = params["adversary"]["layers"][0]
  np.testing.assert_allclose(np.std(layer["kernel"]), 0.01, rtol=0.05)
  np.testing.assert_array_equal(layer["bias"], 0)


@pytest.mark.slow
def test_dann_reverses_the_gradient_of_the_student_alone():
  _, (value, gradients, moved, _) = of_one_device("dann")
  params, _ = start("dann")
  expected, slopes = jax.jit(jax.value_and_grad(domain_loss, (0, 1, 2)))(
    params, SOURCE.embedding, TARGET.embedding
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  close(gradients[0], slopes[0])
  close(gradients[1].embedding, slopes[1], -0.3)
  close(gradients[2].embedding, slopes[2], -0.3)
  assert moved["module"]["step"] == 1


def test_a_schedule_scales_the_reversal_and_not_the_loss():
  objective = OBJECTIVES["dann"](schedule=lambda step: 0.25 * step)
  program = jax.jit(functools.partial(step, objective))
  params, state = start("dann")
  first = program(params, state, SOURCE, TARGET, OTHERS, BATCH)
  assert not np.any(first[1][1].embedding)
  third = first
  for _ in range(2):
    third = program(params, third[2], SOURCE, TARGET, OTHERS, BATCH)
  _, (value, gradients, *_) = of_one_device("dann")
  np.testing.assert_allclose(third[0], value, rtol=1e-6)
  close(third[1][0], gradients[0])
  close(third[1][1].embedding, gradients[1].embedding, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cdan", "cdan, randomised"])
def test_cdan_is_dann_of_its_map(name):
  _, (value, gradients, *_) = of_one_device(name)
  params, state = start(name)
  module = state["module"]
  entropy = name == "cdan"

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
  def expected(params, *embeddings):
    matrices = None
    if not entropy:
      matrices = module["feature_matrix"], module["class_matrix"]
    predicted = [jax.nn.softmax(x.logits) for x in (SOURCE, TARGET)]
    logits = [
      perceptron(
        params["discriminator"],
        adaptation.cdan_map(x, p, matrices=matrices),
      )
      for x, p in zip(embeddings, predicted, strict=True)
    ]
    weights = None, None
    if entropy:
      weights = adaptation.cdan_weights(*predicted, **MASKS)
    return adaptation.dann_loss(
      *logits,
      scaling="pooled" if entropy else "mean",
      source_weights=weights[0],
      target_weights=weights[1],
      **MASKS,
    )

  loss, slopes = expected(params, SOURCE.embedding, TARGET.embedding)
  np.testing.assert_allclose(value, loss, rtol=1e-5)
  close(gradients[0], slopes[0])
  close(gradients[1].embedding, slopes[1], -1.0)
  close(gradients[2].embedding, slopes[2], -1.0)
  assert not np.any(gradients[2].logits)


@pytest.mark.slow
def test_jda_is_the_formula_and_its_adversary_ascends():
  _, (value, gradients, *_) = of_one_device("jda")
  params, _ = start("jda")

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
  def expected(params, logits, *embeddings):
    domain = [perceptron(params["discriminator"], x) for x in embeddings]
    tasks = cross_entropy(logits, LABELS)[:13]
    divergence = adaptation.soft_h_divergence(*domain, **MASKS)
    return jnp.sum(tasks) / (13 + 7) + 0.7 * divergence

  loss, slopes = expected(
    params, SOURCE.logits, SOURCE.embedding, TARGET.embedding
  )
  np.testing.assert_allclose(value, loss, rtol=1e-5)
  close(gradients[0], slopes[0], -1.0)
  close(gradients[1].logits, slopes[1])
  close(gradients[1].embedding, slopes[2])
  close(gradients[2].embedding, slopes[3])


@pytest.mark.slow
def test_mdds_student_only_names_the_classes():
  _, (value, gradients, *_) = of_one_device("mdd")
  params, _ = start("mdd")

  @jax.jit
  def expected(params, source, target):
    theirs, there = (
      perceptron(params["adversary"], x) for x in (source, target)
    )
    return adaptation.mdd_loss(
      SOURCE.logits, theirs, TARGET.logits, there, **MASKS
    )

  slopes = jax.grad(expected, (0, 1, 2))(
    params, SOURCE.embedding, TARGET.embedding
  )
  loss = expected(params, SOURCE.embedding, TARGET.embedding)
  np.testing.assert_allclose(value, loss, rtol=1e-5)
  close(gradients[0], slopes[0])
  close(gradients[1].embedding, slopes[1], -0.1)
  close(gradients[2].embedding, slopes[2], -0.1)
  assert not np.any(gradients[1].logits)


@pytest.mark.slow
def test_dsts_own_head_never_learns_from_pseudo_labels():
  _, (value, gradients, *_) = of_one_device("dst")
  params, _ = start("dst")

  @jax.jit
  def expected(params):
    worst = [perceptron(params["worst"], x.embedding) for x in (SOURCE, TARGET)]
    pseudo = adaptation.fixmatch_loss(
      perceptron(params["pseudo"], STRONG.embedding),
      TARGET.logits,
      threshold=0.5,
    )
    return jnp.mean(pseudo[:7]) + adaptation.dst_loss(
      SOURCE.logits,
      worst[0],
      TARGET.logits,
      worst[1],
      where_labeled=BATCH["source"]["mask"],
      where_unlabeled=BATCH["target"]["mask"],
    )

  np.testing.assert_allclose(value, expected(params), rtol=1e-5)
  close(gradients[0], jax.grad(expected)(params))
  taught = gradients[3]["target_strong"]
  for x in (gradients[1], gradients[2], taught):
    assert not np.any(x.logits)
  assert np.any(taught.embedding)


@pytest.mark.slow
def test_cdac_adds_up_and_its_consistency_rises():
  program, (first, _, moved, _) = of_one_device("cdac")
  params, _ = start("cdac")

  @jax.jit
  def expected(params):
    def classify(x):
      prototypes = params["head"]["kernel"].T
      return adaptation.prototype_logits(x, prototypes, temperature=0.5)

    weak = TARGET.embedding
    strong, other = (
      OTHERS[f"target_{name}"].embedding for name in ("strong", "strong_2")
    )
    task = cross_entropy(classify(SOURCE.embedding), LABELS)
    clustering = adaptation.cdac_loss(
      weak,
      *map(classify, (weak, strong)),
      num_largest=2,
      where=BATCH["target"]["mask"],
    )
    answers = [classify(x) for x in (weak, strong, other)]
    pseudo = adaptation.fixmatch_loss(answers[2], answers[0], threshold=0.4)
    gap = jax.nn.softmax(answers[1]) - jax.nn.softmax(answers[2])
    parts = jnp.mean(task[:13]) + clustering + jnp.mean(pseudo[:7])
    return parts, jnp.mean(jnp.mean(gap**2, -1)[:7])

  parts, difference = expected(params)
  ramp = adaptation.sigmoid_ramp_up(0, length=1000)
  np.testing.assert_allclose(first, parts + 30 * ramp * difference, rtol=1e-5)
  module = moved["module"] | {"step": jnp.array(1000)}
  last, *_ = program(
    params, moved | {"module": module}, SOURCE, TARGET, OTHERS, BATCH
  )
  np.testing.assert_allclose(last, parts + 30 * difference, rtol=1e-5)


@pytest.mark.slow
def test_flexmatch_remembers_who_was_confident():
  program, (value, _, moved, metrics) = of_one_device("flexmatch")
  weak, strong = TARGET.logits, STRONG.logits
  losses = adaptation.fixmatch_loss(strong, weak, threshold=0.0)
  np.testing.assert_allclose(value, jnp.mean(losses[:7]), rtol=1e-5)
  assert metrics["loss"][1] == 7
  expected = adaptation.flexmatch_update(
    adaptation.flexmatch_init(num_examples=8, num_classes=CLASSES),
    weak,
    jnp.arange(8),
    threshold=0.6,
    where=BATCH["target"]["mask"],
  )
  np.testing.assert_array_equal(moved["seen"].labels, expected.labels)
  assert 0 < np.sum(moved["seen"].labels >= 0) < 8
  thresholds = adaptation.flexmatch_thresholds(expected, weak, threshold=0.6)
  losses = adaptation.fixmatch_loss(strong, weak, threshold=thresholds)
  again, *_ = program({}, moved, SOURCE, TARGET, OTHERS, BATCH)
  np.testing.assert_allclose(again, jnp.mean(losses[:7]), rtol=1e-5)


def test_the_target_alone_with_its_views_teacher_and_batch():
  def loss(target_strong_logits, target_teacher_logits, target_index):
    gap = jnp.sum(target_strong_logits * target_teacher_logits, -1)
    return gap + target_index

  objective = stateless(loss)
  value, _, metrics = objective.apply({}, {}, SPECS, BATCH, KEY)
  strong, teacher = (
    OTHERS[f"target_{k}"].logits for k in ("strong", "teacher")
  )
  expected = jnp.mean((jnp.sum(strong * teacher, -1) + jnp.arange(8))[:7])
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert metrics["loss"][1] == 7
  assert objective.predict is None


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("dann", {"source": SOURCE._replace(embedding=None)}, "has no embedding"),
    ("dst", {"target_strong": None}, "reads 'target_strong_embedding'"),
    ("flexmatch", {"target_strong": None}, "reads 'target_strong_logits'"),
  ],
)
def test_what_is_missing_is_named(name, changes, message):
  roles = {k: v for k, v in (SPECS | changes).items() if v is not None}
  objective = OBJECTIVES[name]()
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(objective.apply, *start(name), roles, BATCH, KEY)
