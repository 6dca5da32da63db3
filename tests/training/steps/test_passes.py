"""Inputs of any kind, in passes of any order."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import training
from kdjax.methods import Method, Objective, Pass, stateless
from kdjax.nets import Outputs
from kdjax.training import (
  Model,
  TrainState,
  Variables,
  adapt,
  distill,
  make_train_step,
  mean_metrics,
  parallelize,
  pass_loss,
)

KEY = jax.random.key(0)
SGD = optax.sgd(0.5)
RNG = np.random.default_rng(0)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def supervised(logits, labels):
  return cross_entropy(logits, labels)


def one_step(learner, batch, **options):
  state = learner.init(KEY, batch)
  step = jax.jit(learner.step)
  return step(state, learner.frozen, batch, KEY)


def linear(variables, x, *, train, key):
  return Outputs(x @ variables.params, {}, None), variables.state


def linear_model(width, classes):
  weights = jax.random.normal(jax.random.key(2), (width, classes))
  return Model(linear, Variables(weights, {}))


# Tokens: five words, and a mask that counts 4, 1, 3 and 0 of them.
TOKENS = {
  "tokens": jnp.asarray(RNG.integers(0, 7, (4, 5))),
  "label": jnp.asarray(RNG.integers(0, 3, (4, 5))),
  "mask": jnp.arange(5)[None] < jnp.array([4, 1, 3, 0])[:, None],
}


def embed(variables, tokens, *, train, key):
  """One vector of logits a token."""
  logits = variables.params["embedding"][tokens]
  return Outputs(logits, {}, logits.mean(1)), variables.state


@pytest.fixture
def words():
  table = jax.random.normal(jax.random.key(1), (7, 3))
  return Model(embed, Variables({"embedding": table}, {}))


@pytest.mark.slow
def test_a_mask_of_tokens_counts_tokens(words):
  learner = distill(words, words, supervised, SGD, on="tokens")
  state, metrics = one_step(learner, TOKENS)
  kept = TOKENS["mask"]

  def loss(table):
    values = cross_entropy(table[TOKENS["tokens"]], TOKENS["label"])
    return jnp.sum(values * kept) / 8

  table = words.variables.params["embedding"]
  value, slope = jax.value_and_grad(loss)(table)
  np.testing.assert_allclose(metrics["loss"], (8 * value, 8), rtol=1e-6)
  moved = state.params["student"]["embedding"]
  np.testing.assert_allclose(moved, table - 0.5 * slope, rtol=1e-5, atol=1e-6)
  seen = learner.evaluate(state, learner.frozen, TOKENS)
  assert seen["accuracy"][1] == 8


@pytest.mark.parametrize(
  "mode", [pytest.param("pmap", marks=pytest.mark.slow), "shard_map"]
)
def test_a_mask_of_tokens_counts_tokens_over_devices(words, mode):
  """Five tokens on the first device, three on the second."""
  learner = distill(words, words, supervised, SGD, on="tokens")
  state = learner.init(KEY, TOKENS)
  expected = jax.jit(learner.step)(state, learner.frozen, TOKENS, KEY)
  parallel = parallelize(learner, mode, devices=jax.devices()[:2])
  actual = parallel.step(state, learner.frozen, TOKENS, KEY)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    actual,
    expected,
  )


@pytest.mark.slow
def test_a_mask_of_tokens_counts_tokens_over_mini_steps(words):
  """Both examples of a mini-step have other numbers of tokens."""
  whole = distill(words, words, supervised, SGD, on="tokens")
  expected, _ = one_step(whole, TOKENS)
  parts = distill(
    words, words, supervised, optax.MultiSteps(SGD, 2), on="tokens"
  )
  state = parts.init(KEY, TOKENS)
  step = jax.jit(parts.step)
  for i in range(2):
    batch = jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], TOKENS)
    state, _ = step(state, parts.frozen, batch, KEY)
  np.testing.assert_allclose(
    state.params["student"]["embedding"],
    expected.params["student"]["embedding"],
    rtol=1e-5,
    atol=1e-6,
  )


def test_one_value_an_example_under_a_mask_of_tokens_counts_examples(words):
  """An example with no token is none."""

  def loss(student_embedding):
    return jnp.sum(student_embedding**2, -1)

  learner = distill(words, None, loss, SGD, on="tokens")
  _, metrics = one_step(learner, TOKENS)
  table = words.variables.params["embedding"]
  values = jnp.sum(table[TOKENS["tokens"]].mean(1) ** 2, -1)
  np.testing.assert_allclose(metrics["loss"], (values[:3].sum(), 3), rtol=1e-5)


def test_one_value_a_token_needs_a_mask_of_tokens(words):
  learner = distill(words, None, supervised, SGD, on="tokens")
  batch = TOKENS | {"mask": jnp.ones(4, bool)}
  state = learner.init(KEY, batch)
  with pytest.raises(
    ValueError,
    match=r"supervised returned shape \(4, 5\); expected one value for each "
    r"entry of batch\['mask'\], \(4,\)\. A loss of tokens needs a mask of tok",
  ):
    learner.step(state, {}, batch, KEY)


@pytest.mark.slow
def test_tabular_inputs():
  batch = {
    "row": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
    "label": jnp.arange(6) % 3,
    "mask": jnp.arange(6) < 5,
  }
  student = linear_model(4, 3)
  learner = distill(student, None, supervised, SGD, on="row")
  state, metrics = one_step(learner, batch)

  def loss(weights):
    values = cross_entropy(batch["row"] @ weights, batch["label"])
    return values[:5].mean()

  slope = jax.grad(loss)(student.variables.params)
  np.testing.assert_allclose(
    state.params["student"],
    student.variables.params - 0.5 * slope,
    rtol=1e-5,
    atol=1e-6,
  )
  assert metrics["loss"][1] == 5


def multimodal(variables, inputs, *, train, key):
  """A network of an image and a text."""
  text = inputs["text"]
  text = text["words"] * text["weight"]
  logits = inputs["image"].sum((1, 2)) + text.sum(-1)[:, None]
  return Outputs(logits * variables.params, {}, logits), {}


PAIRS = {
  "image": jnp.asarray(RNG.normal(size=(4, 2, 2, 3)), jnp.float32),
  # An entry may be a pytree itself.
  "text": {
    "words": jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32),
    "weight": jnp.asarray(RNG.normal(size=(4, 1)), jnp.float32),
  },
  "label": jnp.arange(4) % 3,
  "mask": jnp.arange(4) < 3,
}
BOTH = ("image", "text")


@pytest.mark.slow
def test_a_network_of_several_inputs_gets_their_dictionary():
  student = Model(multimodal, Variables(jnp.array(1.0), {}))
  learner = distill(student, student, supervised, SGD, on=BOTH)
  state, metrics = one_step(learner, PAIRS)
  logits = multimodal(Variables(1.0, {}), PAIRS, train=True, key=None)[0].logits
  values = cross_entropy(logits, PAIRS["label"])[:3]
  np.testing.assert_allclose(metrics["loss"], (values.sum(), 3), rtol=1e-5)
  seen = learner.evaluate(state, learner.frozen, PAIRS)
  assert seen["accuracy"][1] == 3


@pytest.mark.slow
def test_each_device_gets_its_part_of_every_input():
  student = Model(multimodal, Variables(jnp.array(1.0), {}))
  learner = distill(student, student, supervised, SGD, on=BOTH)
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), PAIRS)
  state = learner.init(KEY, batch)
  expected = jax.jit(learner.step)(state, learner.frozen, batch, KEY)
  parallel = parallelize(learner, "shard_map", devices=jax.devices()[:2])
  actual = parallel.step(state, learner.frozen, batch, KEY)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, expected
  )


@pytest.mark.slow
def test_several_inputs_of_two_domains_run_as_one_batch():
  student = Model(multimodal, Variables(jnp.array(1.0), {}))
  seen = []

  def spy(variables, inputs, **options):
    seen.append(jax.tree.map(jnp.shape, inputs))
    return multimodal(variables, inputs, **options)

  learner = adapt(
    student._replace(forward=spy),
    lambda source_logits, target_embeddings: (
      target_embeddings.sum(-1)[:1] * source_logits.sum(-1)
    ),
    SGD,
    on=BOTH,
  )
  fewer = jax.tree.map(lambda x: x[:2], PAIRS)
  batch = {"source": PAIRS, "target": fewer}
  state = learner.init(KEY, batch)
  _, metrics = learner.step(state, {}, batch, KEY)
  assert seen[-1]["image"] == (6, 2, 2, 3)
  assert seen[-1]["text"]["words"] == (6, 5)

  def logits(part):
    return multimodal(Variables(1.0, {}), part, train=True, key=None)[0].logits

  expected = logits(fewer).sum(-1)[0] * logits(PAIRS).sum(-1)[:3].sum()
  np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)


def wide(variables, x, *, train, key):
  """A network whose every array could be mistaken for a batch."""
  logits = x @ variables.params
  head = variables.params, jnp.arange(variables.params.shape[-1])
  return Outputs(
    logits,
    {"f0": x},
    x,
    preactivations={"f0": -x},
    normalizations={"f0": (jnp.arange(x.shape[-1]), jnp.ones(x.shape[-1]))},
    attention={"a0": x[:, None, None, :]},
    classifier=head,
  ), variables.state


@pytest.mark.slow
def test_joint_passes_slice_what_has_a_batch_and_nothing_else():
  """An embedding wider than the batch: its classifier is not of examples."""
  sizes = {"source": 3, "target": 2}
  batch = {
    name: {
      "x": jnp.asarray(RNG.normal(size=(size, 8)), jnp.float32),
      "mask": jnp.ones(size, bool),
    }
    for name, size in sizes.items()
  }
  student = Model(wide, linear_model(8, 4).variables)
  passes = {
    name: Pass("student", f"{name}.x", train=True, joint="both")
    for name in sizes
  }
  loss_fn = pass_loss(
    {"student": student.forward},
    passes,
    Objective(lambda *_: ({}, {}), lambda *_, **__: None),
  )
  outputs, _, _ = loss_fn.run(
    {"student": student.variables.params}, {"student": {}}, {}, batch, KEY
  )
  for name in sizes:
    alone, _ = wide(student.variables, batch[name]["x"], train=True, key=None)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      outputs[name]._replace(params=None),
      alone,
    )


def test_passes_have_two_batch_axes_where_they_say_so():
  """Domains go through the network as one batch, and come back as they were."""
  shapes = []

  def spy(variables, x, **options):
    shapes.append(x.shape)
    return wide(variables, x, **options)

  student = Model(spy, linear_model(8, 4).variables)
  loss_fn = pass_loss(
    {"student": student.forward},
    {"student": Pass("student", "x", batch_axes=2)},
    Objective(lambda *_: ({}, {}), lambda *_, **__: None),
  )
  batch = {"x": jnp.ones((2, 3, 8)), "mask": jnp.ones((2, 3), bool)}
  outputs, _, _ = loss_fn.run(
    {"student": student.variables.params}, {"student": {}}, {}, batch, KEY
  )
  (student,) = outputs.values()
  assert shapes == [(6, 8)]
  assert student.logits.shape == (2, 3, 4)
  assert student.features["f0"].shape == (2, 3, 8)
  assert student.attention["a0"].shape == (2, 3, 1, 1, 8)
  assert student.classifier[0].shape == (8, 4)


def test_a_pass_without_gradient_lets_one_by_the_inputs_through():
  def loss(student_logits, still_logits):
    return (student_logits + 10 * still_logits)[:, 0]

  loss_fn = pass_loss(
    {"student": linear},
    {
      "student": Pass("student", "x", train=True),
      "still": Pass("student", "x", gradient=False),
    },
    stateless(loss),
  )
  x = jnp.array([[2.0]])
  state = {"student": {}, "objective": {}}

  def value(weight, x):
    params = {"student": weight, "objective": {}}
    batch = {"x": x, "mask": jnp.ones(1, bool)}
    return loss_fn(params, state, {}, batch, KEY)[0]

  slopes = jax.grad(value, (0, 1))(jnp.array([[3.0]]), x)
  assert slopes[0] == 2  # of the pass with gradient alone
  assert slopes[1] == 3 + 10 * 3


def test_networks_are_trained_side_by_side():
  """Two peers learn from one another: roles, params and states by name."""

  def mutual(peer_0_logits, peer_1_logits, labels):
    gap = (peer_0_logits - peer_1_logits) ** 2
    hard = cross_entropy(peer_0_logits, labels)
    return gap.sum(-1) + hard + cross_entropy(peer_1_logits, labels)

  peers = {"peer_0": linear_model(4, 3), "peer_1": linear_model(4, 3)}
  peers["peer_1"] = peers["peer_1"]._replace(
    variables=Variables(-peers["peer_0"].variables.params, {})
  )
  rows = {name: Pass(name, "x", train=True) for name in peers}
  learner = training.learner(
    Method(stateless(mutual), rows),
    peers,
    optax.sgd(0.02),
    on="x",
    metrics={"right": (lambda logits: logits.argmax(-1), ("peer_0_logits",))},
  )
  batch = {
    "x": jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32),
    "label": jnp.arange(4) % 3,
    "mask": jnp.ones(4, bool),
  }
  state = learner.init(KEY, batch)
  step, losses = jax.jit(learner.step), []
  for _ in range(5):
    state, metrics = step(state, {}, batch, KEY)
    losses.append(mean_metrics(metrics)["loss"])
  assert set(state.params) == {"peer_0", "peer_1", "objective"}
  assert losses[-1] < losses[0]
  assert learner.evaluate(state, {}, batch)["right"][1] == 4


def test_a_batch_is_prepared_with_the_networks_answers():
  """A mixture by the student's own guess, without a gradient of it."""

  def prepare(key, batch, run):
    answer = run("student", batch["x"]).logits
    return batch | {"x": batch["x"] + answer}

  loss_fn = pass_loss(
    {"student": linear},
    {"student": Pass("student", "x", train=True)},
    stateless(lambda logits: logits[:, 0]),
    prepare=prepare,
  )

  def value(weight):
    params = {"student": weight, "objective": {}}
    batch = {"x": jnp.array([[2.0]]), "mask": jnp.ones(1, bool)}
    state = {"student": {}, "objective": {}}
    return loss_fn(params, state, {}, batch, KEY)[0]

  loss, slope = jax.value_and_grad(value)(jnp.array([[3.0]]))
  assert loss == (2 + 2 * 3) * 3
  assert slope == 2 + 2 * 3


def test_an_example_counts_if_all_its_masks_say_so():
  """A domain's own mask beside that of a plan, whose last batch is padded."""

  def forward(variables, x, *, train, key):
    return Outputs(variables.params * x[:, None], {}, None), {}

  passes = {
    name: Pass("student", f"{name}.image", train=True)
    for name in ("source", "target")
  }
  loss = stateless(lambda source_logits: jnp.abs(source_logits[:, 0]))
  step = make_train_step(pass_loss({"student": forward}, passes, loss), SGD)
  params = {"student": jnp.array(1.0), "objective": {}}
  state = {"student": {}, "objective": {}}
  state = TrainState(jnp.array(0), params, state, SGD.init(params))
  domain = {"image": jnp.arange(3.0), "mask": jnp.array([True, False, True])}
  batch = {
    "source": domain,
    "target": domain,
    "mask": jnp.array([True, True, False]),
  }
  _, metrics = step(state, {}, batch, KEY)
  assert metrics["loss"] == (0, 1)


PLAIN = stateless(supervised)


@pytest.mark.parametrize(
  ("change", "error", "words"),
  [
    (("objective", supervised), TypeError, "objective is a function; expected"),
    (("forward", None), TypeError, "student is a NoneType; expected a Model's"),
    (("pass", "image"), TypeError, "the pass 'student' is a str; expected a P"),
    (
      ("pass", Pass("teacher")),
      ValueError,
      r"is of the network 'teacher'; expected one of \['student'\], or 'avera",
    ),
  ],
)
def test_a_table_says_what_is_wrong_with_it(change, error, words):
  parts = {"objective": PLAIN, "forward": linear, "pass": Pass("student")}
  parts |= dict([change])
  with pytest.raises(error, match=f"^pass_loss: .*{words}"):
    inspect.unwrap(pass_loss)(
      {"student": parts["forward"]},
      {"student": parts["pass"]},
      parts["objective"],
    )


@pytest.mark.parametrize(
  ("batch", "error", "words"),
  [
    ({"mask": 0}, ValueError, r"batch has \['mask'\]; expected 'x' too"),
    ((0, 1), TypeError, "batch is a tuple; expected a mapping"),
  ],
)
def test_a_batch_says_what_it_lacks(batch, error, words):
  learner = distill(linear_model(4, 3), None, supervised, SGD, on="x")
  with pytest.raises(error, match=f"the loss: {words}"):
    learner.init(KEY, batch)


def test_joint_passes_are_of_one_kind():
  batch = {
    name: {"x": jnp.ones((2, 4)), "mask": jnp.ones(2, bool)}
    for name in ("source", "target")
  }
  rows = [
    Pass("student", f"{name}.x", train=train, joint="both")
    for name, train in (("source", True), ("target", False))
  ]
  objective = stateless(lambda source_logits: source_logits.sum(-1))
  for second, words in (
    (rows[1], "'target' and 'source' are joint; expected the same train and"),
    (
      rows[0]._replace(on="target.wide"),
      "inputs of 'target' have the shape .*; expected that of 'source', ",
    ),
  ):
    batch["target"]["wide"] = jnp.ones((2, 5))
    learner = training.learner(
      Method(objective, {"source": rows[0], "target": second}),
      linear_model(4, 3),
      SGD,
    )
    with pytest.raises(ValueError, match=words):
      learner.init(KEY, batch)


def test_what_a_loss_reads_is_there_or_it_says_so():
  batch = {"x": jnp.ones((2, 4)), "mask": jnp.ones(2, bool)}

  def told(student_logits, teacher_logits):
    return (student_logits - teacher_logits).sum(-1)

  def strange(student_logits, colour):
    return student_logits.sum(-1)

  def average(student_logits, average_logits):
    return (student_logits - average_logits).sum(-1)

  for loss, words in (
    (told, "told reads 'teacher_logits', .* Expected a teacher: give the lea"),
    (strange, r"strange reads 'colour', which is none of the roles \['stude"),
    (average, "average reads 'average_logits', .* Expected an average: give"),
    (supervised, r"supervised reads 'labels', .* no entry of the batch \['ma"),
  ):
    learner = distill(linear_model(4, 3), None, loss, SGD, on="x")
    state = learner.init(KEY, batch)
    with pytest.raises(ValueError, match=words):
      learner.step(state, {}, batch, KEY)


def test_the_teachers_variables_are_given_under_its_name():
  learner = distill(
    linear_model(4, 3), linear_model(4, 3), supervised, SGD, on="x"
  )
  batch = {
    "x": jnp.ones((2, 4)),
    "label": jnp.zeros(2, int),
    "mask": jnp.ones(2, bool),
  }
  state = learner.init(KEY, batch)
  with pytest.raises(ValueError, match=r"frozen has \[\]; expected 'teacher'"):
    learner.step(state, {}, batch, KEY)


def test_an_average_needs_an_optimizer_that_keeps_one():
  student = linear_model(4, 3)
  learner = training.learner(
    Method(
      stateless(lambda student_logits, average_logits: student_logits.sum(-1)),
      {"student": Pass(train=True), "average": Pass("average")},
    ),
    student,
    SGD,
    on="x",
  )
  batch = {"x": jnp.ones((2, 4)), "mask": jnp.ones(2, bool)}
  state = learner.init(KEY, batch)
  with pytest.raises(
    ValueError, match=r"no average of the student's parameters; expected par"
  ):
    learner.step(state, {}, batch, KEY)
