"""The job of fine-tuning, reduced: data, losses, choice, words, resumption."""

import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.finetune import __main__ as finetune
from experiments.finetune import data as finetune_data
from experiments.finetune import methods as finetune_methods
from experiments.finetune import report as finetune_report
from experiments.finetune import training as finetune_training
from experiments.finetune.networks import make_network
from experiments.finetune.training import Row
from experiments.frame import episodes, statistics, transferability
from experiments.frame import finetuning as frame_finetuning
from kdjax import finetuning, training
from kdjax.nets import Outputs
from kdjax.ops import cross_entropy
from tests.experiments import runs

pytestmark = pytest.mark.slow  # distill and the frame are quick

SMALL = finetune.Config(
  shots=2,
  hidden=(6,),
  methods=("delta_attention", "prototypical"),
  teachers=("two classes", "untrained"),
  rates=(0.01, 0.1),
  seeds=2,
  pretrain_steps=4,
  steps=4,
  evaluate_every=2,
  batch_size=16,
  tasks=2,
)
KEY = jax.random.key(0)


def log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


run, small = runs.of(finetune, SMALL)
reference = runs.reference(run, small)


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, results = reference
  report = (folder / "report.md").read_text()
  for name in ("accuracy", "teachers"):
    assert (folder / f"{name}.png").stat().st_size > 10_000
    assert f"({name}.png)" in report
  for text in (
    "# digits: from the first half of the classes to the second",
    "With 2 labels a class, target-only reaches",
    "by 2-fold cross-validation within them",
    "more target labels**: the candidate that an oracle",
    "\n| DELTA with attention |",
    "\n| prototypical networks |",
    "## Which teacher?",
    "\n| two classes |",
    "\n| regularized H-score |",
  ):
    assert text in report
  assert "StochNorm needs" not in report
  assert list(results["rows"]) == [
    "target_only",
    "prototypes",
    "linear_probe",
    "finetune",
    "delta_attention",
    "prototypical",
  ]
  for method, row in results["rows"].items():
    assert row.accuracy.shape == row.oracle_accuracy.shape == (2,)
    assert (row.candidates is None) == (not frame_finetuning.is_trained(method))
  teachers = results["teachers"]
  assert teachers.names == ("source", "two classes", "untrained")
  assert teachers.accuracy.shape == (3, 2)
  # The same program on the same networks, or nearly: batched otherwise.
  for i, method in ((0, "finetune"), (2, "target_only")):
    np.testing.assert_allclose(
      teachers.accuracy[i], results["rows"][method].accuracy, atol=0.02
    )


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_to_the_same_result(
  reference, tmp_path, monkeypatch
):
  monkeypatch.setattr(finetune_report, "draw", lambda job, results: {})
  folder, results = reference
  workdir = tmp_path / "cut"
  shutil.copytree(folder, workdir)
  for stage in ("pretrain_prototypical", "delta_attention"):
    shutil.rmtree(workdir / "checkpoints" / stage / "4")
  shutil.rmtree(workdir / "checkpoints" / "linear_probe")
  again = run(small(workdir, resume=True))
  jax.tree.map(np.testing.assert_array_equal, again, results)
  lines, expected = (
    sorted(
      (path / "metrics.jsonl").read_text().splitlines(),
      key=lambda line: [json.loads(line)[k] for k in ("stage", "step")],
    )
    for path in (workdir, folder)
  )
  assert lines == expected


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"steps": 3}, "steps is 3; expected a multiple of evaluate_every"),
    ({"shots": 0}, "shots is 0; expected a number above 0"),
    ({"shots": 500}, "shots is 500; expected at most "),
    ({"rates": ()}, r"rates is \(\); expected one or more"),
    ({"hidden": ()}, r"hidden is \(\); expected one or more"),
    ({"methods": ("dann",)}, r"methods is \('dann',\); expected one or more"),
    ({"methods": ("finetune",)}, "expected one or more different ones of "),
    ({"methods": ()}, r"methods is \(\); expected one or more different ones"),
    ({"teachers": ("noisy",) * 2}, "teachers is .*; expected one or more"),
    ({"validation_fraction": 1.0}, "validation_fraction is 1.0; expected"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    run(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def data():
  return finetune_data.load_data(
    dataclasses.replace(SMALL, shots=5, folds=2, seeds=3)
  )


def test_a_seed_has_as_many_labels_of_each_class_and_its_own(data):
  labels = np.asarray(data.target["label"])[data.few]
  np.testing.assert_array_equal(labels, np.tile(np.repeat(range(5), 5), (3, 1)))
  assert all(len(set(few)) == 25 for few in data.few)
  assert len({tuple(few) for few in data.few}) == 3


def test_each_label_is_held_out_by_one_fold_and_each_fold_has_all_classes(data):
  assert data.learns.shape == (3, 25)
  assert data.learns[0].all()
  assert np.all((~data.learns).sum(0) == 1)
  kept = data.learns.reshape(3, 5, 5).sum(-1)
  assert np.all(kept[1:] == kept[1:, :1])


def test_with_one_label_a_class_nothing_is_held_out():
  config = dataclasses.replace(SMALL, shots=1)
  assert finetune_data.load_data(config).learns.shape == (1, 5)


def test_what_teachers_are_pretrained_on(data):
  part = {k: np.asarray(v) for k, v in data.source.items()}
  labels = part["label"]
  assert set(labels) == set(range(5))

  program = jax.jit(finetune_data.source_of, static_argnums=0)

  def source(name):
    return jax.device_get(program(name, KEY, data.source))

  for name, kept in (("two classes", (0, 1)), ("two others", (2, 3))):
    np.testing.assert_array_equal(source(name)["counts"], np.isin(labels, kept))
  other = source("random labels")["label"]
  assert np.mean(other == labels) < 0.5
  np.testing.assert_array_equal(np.bincount(other), np.bincount(labels))
  for name in ("inverted", "rotated", "noisy"):
    images = source(name)["image"]
    assert images.shape == part["image"].shape
    assert np.any(images != part["image"])


def test_an_episode_has_all_classes_in_a_new_order_and_no_image_twice(data):
  labels = np.asarray(data.source["label"])
  plan = episodes.plan_episodes(KEY, labels, steps=3, tasks=2, examples=4)
  assert plan["mask"].shape == (3, 40)
  places = np.asarray(plan["index"]).reshape(6, 5, 4)
  assert all(len(set(x.ravel().tolist())) == 20 for x in places)
  classes = labels[places]
  assert np.all(classes == classes[..., :1])
  orders = {tuple(x) for x in classes[..., 0].tolist()}
  assert len(orders) > 1
  assert all(set(order) == set(range(5)) for order in orders)


def test_support_and_query_are_different_images_of_the_same_classes():
  images = jnp.arange(2 * 3 * 4).reshape(-1, 1)  # tasks, classes, 2 + 2 shots
  support, query = episodes.divide(images, 2, 3)
  np.testing.assert_array_equal(support["label"][0], [0, 0, 1, 1, 2, 2])
  np.testing.assert_array_equal(
    support["input"][1, :, 0] // 4 - 3, [0, 0, 1, 1, 2, 2]
  )
  np.testing.assert_array_equal(query["input"], support["input"] + 2)
  np.testing.assert_array_equal(query["label"], support["label"])


def linear_forward(variables, inputs, *, train, key):
  del train, key
  params = variables.params
  embedding = inputs @ params["body"]
  return Outputs(embedding @ params["head"], {}, embedding), {}


@jax.jit
@jax.value_and_grad
def task_loss(params, task):
  logits = task["input"] @ params["body"] @ params["head"]
  losses = cross_entropy(logits, task["label"])
  return jnp.mean(losses)


def adapt(params, task, *, head_only):
  """Two steps of the inner loop."""
  for _ in range(2):
    _, steps = task_loss(params, task)
    if head_only:
      steps = steps | {"body": 0.0}
    params = {name: x - 0.1 * steps[name] for name, x in params.items()}
  return params


def prototype_loss(params, task, other):
  embeddings = task["input"] @ params["body"]
  queries = other["input"] @ params["body"]
  prototypes = [embeddings[task["label"] == k].mean(0) for k in range(5)]
  gaps = queries[:, None] - np.stack(prototypes)
  logs = log_softmax(-np.square(gaps).sum(-1))
  return -logs[np.arange(10), other["label"]].mean()


@pytest.mark.slow
@pytest.mark.parametrize("way", episodes.WAYS)
def test_meta_learning_minimises_what_its_way_is_about(way):
  config = types.SimpleNamespace(inner_rate=0.1, inner_steps=2, tasks=2)
  rng = np.random.default_rng(0)
  params = {"body": rng.normal(size=(4, 3)), "head": np.eye(3, 5)}
  params = {name: np.float32(x) for name, x in params.items()}
  images = np.float32(rng.normal(size=(2 * 5 * 4, 4)))
  loss_fn = episodes.make_loss(way, linear_forward, config, 5)

  @jax.jit
  @jax.value_and_grad
  def program(params, images):
    return loss_fn({"student": params}, {}, {}, {"image": images}, KEY)[0]

  loss, gradient = program(params, images)
  tasks = [
    [{name: np.asarray(x[i]) for name, x in part.items()} for part in parts]
    for parts in [episodes.divide(jnp.asarray(images), 2, 5)]
    for i in range(2)
  ]
  if way == "prototypical":
    expected = np.mean([prototype_loss(params, *task) for task in tasks])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    return
  after = [adapt(params, task, head_only=way == "anil") for task, _ in tasks]
  if way == "reptile":
    for name, x in params.items():
      away = x - (after[0][name] + after[1][name]) / 2
      np.testing.assert_allclose(gradient[name], away, atol=1e-6)
    return
  losses = [
    task_loss(x, task[1])[0] for x, task in zip(after, tasks, strict=True)
  ]
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


ADDED = (
  "finetune",
  "l2_sp",
  "delta",
  "delta_attention",
  "bss",
  "co_tuning",
  "lwf",
  "bi_tuning",
)


@pytest.fixture(scope="module")
def start(data):
  """What each method minimises before its first step, one fold held out."""
  network = make_network(SMALL, data)
  few = data.few[0]
  batch = {
    "image": data.target["image"][few],
    "label": data.target["label"][few],
    "mask": jnp.asarray(data.learns[1]),
    "index": jnp.asarray(few),
  }

  @jax.jit
  def program(key, batch):
    teacher, head = map(network.init, jax.random.split(key))
    student = finetune_training.with_new_head(teacher, head)
    losses, knowledge = {}, {}
    for method in ADDED:
      knowledge[method] = finetune_methods.ask_teacher(
        method, network.forward, teacher, batch, body="layers", classes=5
      )
      learner = frame_finetuning.make_learner(
        method,
        training.Model(network.forward, student),
        training.Model(network.forward, teacher),
        frame_finetuning.make_optimizer(
          method, {"rate": 0.1, "weight": 2.0}, [], 4
        ),
        classes=5,
        weight=2.0,
        knowledge=knowledge[method],
      )
      state = learner.init(key, batch)
      frozen = dict(learner.frozen)
      if method == "bi_tuning":
        frozen["average"] = training.averaged_student(state)
      losses[method] = learner.loss_fn(
        state.params, state.state, frozen, batch, key
      )[0]
    answers = [
      frame_finetuning.answer(network.forward, x, batch["image"])
      for x in (teacher, student)
    ]
    return losses, knowledge, answers, student.params["head"]

  return batch, jax.device_get(program(KEY, batch))


@pytest.mark.slow
def test_what_methods_add_to_the_cross_entropy(start):
  batch, (losses, knowledge, (teacher, student), head) = start
  mask, labels = np.asarray(batch["mask"]), np.asarray(batch["label"])
  plain = -log_softmax(student.logits)[np.arange(25), labels][mask].mean()
  np.testing.assert_allclose(losses["finetune"], plain, rtol=1e-5)
  # Nothing has moved yet: only the new head has a penalty.
  penalty = 0.005 * sum(np.sum(x**2) for x in head.values())
  for method in ("l2_sp", "delta", "delta_attention"):
    np.testing.assert_allclose(losses[method], plain + penalty, rtol=1e-5)
  np.testing.assert_allclose(losses["lwf"], plain, rtol=1e-5)
  values = np.linalg.svd(student.embedding[mask], compute_uv=False)
  added = 2 * values[-1] ** 2
  np.testing.assert_allclose(losses["bss"], plain + added, rtol=1e-4)
  answers = log_softmax(teacher.logits)
  relationship = np.stack(
    [np.exp(answers)[mask & (labels == k)].mean(0) for k in range(5)]
  )
  np.testing.assert_allclose(knowledge["co_tuning"], relationship, rtol=1e-5)
  added = -2 * (relationship[labels] * answers).sum(1)[mask].mean()
  np.testing.assert_allclose(losses["co_tuning"], plain + added, rtol=1e-5)
  assert losses["bi_tuning"] > plain


def test_attention_is_on_channels_whose_absence_costs_most(start):
  batch, (_, knowledge, (teacher, _), _) = start
  mask, labels = np.asarray(batch["mask"]), np.asarray(batch["label"])

  def loss(embedding):
    prototypes = np.stack(
      [teacher.embedding[mask & (labels == k)].mean(0) for k in range(5)]
    )
    logits = -np.square(embedding[:, None] - prototypes).sum(-1)
    return -log_softmax(logits)[np.arange(25), labels][mask].mean()

  increases = []
  for channel in range(6):
    without = teacher.embedding.copy()
    without[:, channel] = 0  # ReLU of 0
    increases.append(loss(without) - loss(teacher.embedding))
  expected = finetuning.delta_channel_attention(jnp.float32(increases))
  (attention,) = knowledge["delta_attention"].values()
  np.testing.assert_allclose(attention, expected, rtol=1e-3)


def test_batch_statistics_know_nothing_of_what_is_held_out(data):
  network = make_network(SMALL, data, "stochastic")
  few, mask = data.few[0], jnp.asarray(data.learns[1])
  images = data.target["image"][few]
  batch = {"label": data.target["label"][few], "mask": mask, "index": few}

  @jax.jit
  def program(images):
    model = training.Model(network.forward, network.init(KEY))
    learner = frame_finetuning.make_learner(
      "stochnorm", model, model, optax.sgd(0.1), classes=5
    )
    whole = batch | {"image": images}
    state = learner.init(KEY, whole)
    loss, (state, _) = learner.loss_fn(
      state.params, state.state, learner.frozen, whole, KEY
    )
    return loss, state["student"]

  others = jnp.where(mask[:, None, None, None], images, 255 - images)
  first, second = map(program, (images, others))
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_rates_by_method():
  groups = ["^student/layers/0/", "^student/head/"]
  layer = {"kernel": jnp.ones(2)}
  params = {"student": {"layers": {0: layer}, "head": layer}}
  expected = {
    ("finetune", 0.0): [0.5, 0.5],
    ("linear_probe", 0.0): [0.0, 0.5],
    ("anil", 0.0): [0.0, 0.5],
    ("layerwise", 0.1): [0.05, 0.5],
    ("unfreezing", 0.25): [0.0, 0.5],
  }

  @jax.jit
  def program(params, rate):
    moves = []
    for method, weight in expected:
      candidate = {"rate": rate, "weight": rate * 2 * weight}
      optimizer = frame_finetuning.make_optimizer(method, candidate, groups, 8)
      updates, _ = optimizer.update(params, optimizer.init(params), params)
      student = updates["student"]
      for x in (student["layers"][0], student["head"]):
        moves.append(-x["kernel"][0])
    return jnp.stack(moves)

  moves = program(params, 0.5).reshape(-1, 2)
  np.testing.assert_allclose(moves, list(expected.values()), rtol=1e-4)


def test_a_seed_chooses_the_most_accurate_then_the_surest_then_the_first():
  seen = {
    "held_out_accuracy": [[[9, 9, 9]] * 3, [[1, 3, 2], [1, 3, 3], [0, 0, 0]]],
    "held_out_loss": [[[0, 0, 0]] * 3, [[1, 9, 1], [0, 2, 1], [0, 0, 0]]],
  }
  seen = {name: np.array(x) for name, x in seen.items()}
  np.testing.assert_array_equal(finetune_training.choose(seen), [1, 2, 0])


def test_correlations_of_scores_and_accuracy():
  accuracy = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
  scores = np.stack([accuracy, np.ones((3, 2))])
  taus = transferability.correlate(scores, accuracy)
  np.testing.assert_allclose(taus, [[1, 1], [0, 0]])
  linear = transferability.correlate(accuracy[None] ** 2, accuracy, linear=True)
  expected = np.corrcoef([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])[0, 1]
  np.testing.assert_allclose(linear, [[expected, expected]])
  scores[1, 2, 0] = np.nan  # no score is no correlation of 0
  taus = transferability.correlate(scores, accuracy)
  np.testing.assert_allclose(taus, [[1, 1], [np.nan, 0]])


def rows_of(**accuracy):
  noise = 0.01 * np.random.default_rng(0).normal(size=(len(accuracy), 6))
  candidates = {"rate": np.ones(1), "weight": np.zeros(1)}
  zeros = np.zeros(6, int)
  return {
    name: Row(candidates, zeros, mean + x, zeros, mean + 0.01 + x)
    for (name, mean), x in zip(accuracy.items(), noise, strict=True)
  }


def test_the_report_says_when_transfer_hurt():
  rows = rows_of(
    target_only=0.8,
    finetune=0.7,
    co_tuning=0.9,
    target_only_norm=0.5,
    finetune_norm=0.55,
    stochnorm=0.4,
  )
  text = "\n".join(finetune_report.conclude(SMALL, rows))
  for part in (
    "Clearly better than target-only: Co-Tuning +",
    "Clearly worse than target-only: fine-tuning -",
    "Clearly better than fine-tuning: Co-Tuning +",
    "Clearly worse than fine-tuning: StochNorm -1",
    "cost 1.0 points of accuracy on average",
  ):
    assert part in text
  header, cells, *_ = finetune_report.make_table(rows)
  table = {row[0]: dict(zip(header, row, strict=True)) for row in cells}
  over = "gain over fine-tuning"
  assert table["Co-Tuning"][over].endswith(" **+**")
  assert table["StochNorm"][over].endswith(" **-**")
  assert table["target-only with BN"][over] == ""


def test_two_seeds_conclude_nothing():
  rows = {
    name: row._replace(accuracy=row.accuracy[:2])
    for name, row in rows_of(target_only=0.5, finetune=0.6).items()
  }
  text = "\n".join(finetune_report.conclude(SMALL, rows))
  assert statistics.TOO_FEW in text
  assert "learly" not in text
