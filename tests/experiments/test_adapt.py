"""The adaptation job, reduced: honesty, objectives, files, resumption."""

import dataclasses
import functools
import json
import shutil
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.adapt import __main__ as adapt
from experiments.adapt import choice as adapt_choice
from experiments.adapt import data as adapt_data
from experiments.adapt import methods as adapt_methods
from experiments.adapt import report as adapt_report
from experiments.adapt import training as adapt_training
from experiments.frame import data as frame_data
from experiments.frame import plots, rules
from kdjax import data as kdata
from kdjax import methods as kmethods
from kdjax import nets, training
from tests.experiments import runs

pytestmark = pytest.mark.slow  # distill and the frame are quick

SMALL = adapt.Config(
  shift="rotate",
  hidden=(12, 8),
  discriminator=6,
  methods=("jda",),
  weights=(0.1, 1.0),
  seeds=2,
  steps=12,
  evaluate_every=4,
  batch_size=32,
)


run, small = runs.of(adapt, SMALL)
reference = runs.reference(run, small)


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, rows = reference
  report = (folder / "report.md").read_text()
  for name in ("accuracy", "divergence", "embeddings"):
    assert (folder / f"{name}.png").stat().st_size > 10_000
    assert f"({name}.png)" in report
  for text in ("rotated by 30 degrees", "uses target labels", "JDA ", "d_H"):
    assert text in report
  assert list(rows) == ["source_only", "jda", "target_only"]
  for name in ("source-only", "JDA", "target-only"):
    assert f"\n| {name} |" in report
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  logged = [json.loads(line) for line in lines]
  assert [(row["stage"], row["step"]) for row in logged] == [
    (method, step) for method in rows for step in (4, 8, 12)
  ]
  assert logged[3]["weight"] == [0.1, 1.0]
  for row in rows.values():
    assert row.test_accuracy.shape == (2,)
    assert row.validation["divergence"].shape == (3, 2)


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_to_the_same_result(
  reference, tmp_path, monkeypatch
):
  monkeypatch.setattr(adapt_report, "draw", lambda *_: {})
  folder, rows = reference
  workdir = tmp_path / "cut"
  shutil.copytree(folder, workdir)
  shutil.rmtree(workdir / "checkpoints" / "jda" / "12")
  shutil.rmtree(workdir / "checkpoints" / "target_only")
  again = run(small(workdir, resume=True))
  jax.tree.map(np.testing.assert_array_equal, again, rows)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert sorted(lines) == sorted(
    (folder / "metrics.jsonl").read_text().splitlines()
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"steps": 10}, "steps is 10; expected a multiple of evaluate_every"),
    ({"steps": 0}, "steps is 0; expected a number above 0"),
    ({"evaluate_every": 0}, "evaluate_every is 0; expected a number above 0"),
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    (
      {"methods": ()},
      r"methods is \(\); expected all, or one or more different ones of mmd, ",
    ),
    ({"methods": ("dan",)}, r"methods is \('dan',\); expected all, or one"),
    ({"methods": ("adabn",)}, "expected none with adabn, as the network"),
    ({"image_size": -1}, "image_size is -1; expected 0 or more"),
    ({"weights": ()}, r"weights is \(\); expected one or more"),
    ({"weights": (0.1, -1.0)}, r"weights is \(0.1, -1.0\); expected"),
    ({"strength": 1.5}, "strength is 1.5; expected a number from 0 to 1"),
    ({"validation_fraction": 1.0}, "validation_fraction is 1.0; expected"),
    ({"network": "nothing"}, "'nothing'; expected one of"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    run(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_no_image_is_in_two_places():
  config = dataclasses.replace(SMALL, shift="none")
  data = adapt_data.load_data(config)
  parts = [*data.train.values(), data.validation, data.test]
  images = np.concatenate([part["image"] for part in parts])
  everything = np.concatenate(
    [kdata.digits(split).images for split in ("train", "test")]
  )
  assert sum(data.validation_sizes) == len(data.validation["label"])
  # Equal as multisets.
  assert sorted(x.tobytes() for x in images) == sorted(
    x.tobytes() for x in everything
  )


@pytest.mark.slow
@pytest.mark.parametrize("shift", ["rotate", "invert", "blend_noise"])
def test_only_the_target_is_shifted(shift):
  plain = adapt_data.load_data(dataclasses.replace(SMALL, shift="none"))
  data = adapt_data.load_data(dataclasses.replace(SMALL, shift=shift))
  sizes = plain.validation_sizes
  pairs = [
    (part(plain), part(data), domain == "source")
    for domain, part in (
      ("source", lambda x: x.train["source"]),
      ("target", lambda x: x.train["target"]),
    )
  ]
  pairs.append(
    (plain.validation, data.validation, np.arange(sum(sizes)) < sizes[0])
  )
  for before, after, expected in pairs:
    same = np.all(before["image"] == after["image"], axis=(1, 2, 3))
    np.testing.assert_array_equal(same, np.broadcast_to(expected, same.shape))
  assert not np.any(
    np.all(plain.test["image"] == data.test["image"], axis=(1, 2, 3))
  )


def test_a_larger_source_is_cropped_resized_and_cut_short(monkeypatch):
  def load(name, split, data_dir):
    size, count = (16, 60) if name == "large" else (8, 50)
    images = np.zeros((count, size, size, 1), np.uint8)
    images[:, 4:-4, 4:-4] = 255
    return kdata.ArraySource(images, np.arange(count, dtype=np.int32) % 5)

  monkeypatch.setattr(kdata, "load", load)
  config = dataclasses.replace(
    SMALL, source="large", shift="none", examples=40, validation_fraction=0.25
  )
  data = adapt_data.load_data(config)
  assert data.train_sizes == (30, 30)
  assert data.validation_sizes == (10, 10)
  source, target = (part["image"] for part in data.train.values())
  assert source.shape == target.shape == (30, 8, 8, 1)
  # Four pixels less on each side: the white square fills the frame.
  assert np.all(source == 255)
  assert not np.any(target)


@pytest.fixture(scope="module")
def job():
  data = adapt_data.load_data(SMALL)
  return adapt_training.start_job(SMALL, None, None, data)


def make_learner(name, job):
  """The learner of a method, and the images as the method changes them."""
  job = adapt_training.job_of(name, job)
  variables = jax.tree.map(lambda x: x[0], job.variables)
  student = training.Model(job.forward, variables)
  targets = job.data.train_sizes[1]
  learner = adapt_methods.make_learner(name, SMALL, student, targets, 0.5)
  spec = {
    domain: frame_data.batch_spec(part, SMALL.batch_size)
    for domain, part in job.data.train.items()
  }
  return learner, spec


@pytest.mark.slow
@pytest.mark.parametrize("name", adapt_methods.CHOICES)
def test_every_method_takes_a_step_and_answers(name, job):
  learner, spec = make_learner(name, job)
  key = jax.random.key(2)
  state = jax.eval_shape(lambda: learner.init(key, spec))
  step = jax.eval_shape(learner.step, state, learner.frozen, spec, key)
  chex.assert_trees_all_equal_shapes(step[0], state)
  predict = learner.loss_fn.objective.predict
  forward = learner.loss_fn.forwards["student"]
  answer = adapt_training.make_answer(forward, predict)
  trained = adapt_training.students(state, predict)
  outputs = jax.eval_shape(answer, trained, spec["target"]["image"])
  assert outputs.logits.shape == (SMALL.batch_size, 10)


def test_methods_are_rows_of_the_table():
  assert set(adapt_methods.GROUP_OF) <= set(kmethods.names("adaptation"))
  assert set(adapt_methods.GROUPS) == set(adapt_report.KINDS)


@pytest.mark.slow
def test_a_factor_multiplies_the_published_weight(job):
  for name, expected in (("lmmd", 0.25), ("mdd", 0.05)):
    learner, spec = make_learner(name, job)
    state = learner.init(jax.random.key(2), spec).state["objective"]
    values = [float(x) for x in jax.tree.leaves(state) if x.shape == ()]
    assert any(np.isclose(value, expected) for value in values), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["source_only", "dann", "target_only"])
def test_target_labels_reach_target_only_alone(name, job):
  learner, _ = make_learner(name, job)
  size = SMALL.batch_size
  rows = {"index": jnp.arange(size), "mask": jnp.ones(size, bool)}
  batch = {
    domain: jax.tree.map(lambda x: jnp.asarray(x[:size]), part) | rows
    for domain, part in job.data.train.items()
  }
  state = learner.init(jax.random.key(2), batch)

  @jax.jit
  def gradient(batch):
    batch = adapt_training.hide_labels(name, batch)
    key = jax.random.key(3)
    return jax.grad(
      lambda params: learner.loss_fn(
        params, state.state, learner.frozen, batch, key, axis_name=None
      )[0]
    )(state.params)

  seen = gradient(batch)

  def is_seen(**changes):
    target = batch["target"] | changes
    changed = gradient(batch | {"target": target})
    return not jax.tree.all(jax.tree.map(np.array_equal, seen, changed))

  target = batch["target"]
  labels = (target["label"] + 1) % 10
  assert is_seen(label=labels) == (name == "target_only")
  assert is_seen(image=255 - target["image"]) == (name != "source_only")


@pytest.mark.slow
def test_closed_form_maps_and_weights_are_of_training_images_alone():
  data = adapt_data.load_data(SMALL)
  changed = data._replace(
    validation=data.validation | {"image": 255 - data.validation["image"]},
    test=data.test | {"image": 255 - data.test["image"]},
  )
  for name in ("coral_map", "discriminator_ratio"):
    change = adapt_methods.change_of(name)
    jax.tree.map(
      np.testing.assert_array_equal, change(data).train, change(changed).train
    )


@pytest.mark.slow
def test_rules_score_one_student():
  rng = np.random.default_rng(0)
  embedding, logits = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
  outputs = nets.Outputs(jnp.asarray(logits), {}, jnp.asarray(embedding))
  labels = jnp.asarray(rng.integers(0, 3, 20))
  score = functools.partial(adapt_choice.score, size=20)
  scores = jax.jit(score)(outputs, labels)
  assert set(scores) == set(rules.RULES) - {"guarded", "reverse"}
  source = logits[:20]
  expected = np.mean(source.argmax(1) == np.asarray(labels))
  np.testing.assert_allclose(scores["source_accuracy"], expected, rtol=1e-6)
  # DEV corrects by what the mean of the weights misses: without, they are one.
  assert abs(scores["dev"] - scores["importance_weighted"]) > 1e-3
  # Domains that do not differ have equal weights: the risk is the source's.
  outputs = jax.tree.map(lambda x: jnp.concatenate([x[:20]] * 2), outputs)
  same = jax.jit(score)(outputs, labels)
  chosen = jax.nn.log_softmax(source)[np.arange(20), labels]
  np.testing.assert_allclose(
    same["importance_weighted"], np.mean(chosen), rtol=1e-4
  )


def gained(rows, gains):
  """The same rows, but JDA gains so much over source-only."""
  zero = np.zeros(len(gains))
  rows = {name: row._replace(test_accuracy=zero) for name, row in rows.items()}
  return rows | {"jda": rows["jda"]._replace(test_accuracy=np.array(gains))}


@pytest.mark.parametrize(
  ("gains", "words"),
  [
    ((0.1, 0.101, 0.1), "Clearly better than source-only: JDA +10.0."),
    ((-0.1, -0.101, -0.1), "Clearly worse than source-only: JDA -10.0."),
    ((0.1, -0.1, 0.0), "No clear difference from source-only: JDA +0.0."),
    ((0.1, 0.101), "JDA +10.1; too few seeds for a verdict"),
  ],
)
def test_findings_and_table_say_the_same(reference, gains, words):
  _, rows = reference
  rows = gained(rows, gains)
  assert words in " ".join(adapt_report.conclude(SMALL, rows))
  cell = adapt_report.make_table(rows).rows[1][2]
  assert ("**+**" in cell, "**-**" in cell) == (
    "better" in words,
    "worse" in words,
  )


def test_accuracies_of_both_domains_are_given_without_a_direction(reference):
  _, rows = reference
  better = np.ones_like(rows["source_only"].test_accuracy)
  source = rows["source_only"]._replace(test_accuracy=better)
  finding = adapt_report.conclude(SMALL, rows | {"source_only": source})[0]
  assert "100.0% on the target" in finding
  assert "falls" not in finding


@pytest.mark.parametrize(
  ("gains", "title"),
  [
    ((0.1, 0.101, 0.1), "JDA: +10.0 points over source-only"),
    ((0.1, -0.1, 0.0), "No method is clearly better than source-only"),
    ((0.1, 0.101), "Too few seeds for a verdict; 3 or more are needed"),
  ],
)
def test_the_bars_claim_what_the_seeds_show(
  reference, monkeypatch, gains, title
):
  folder, rows = reference
  titles = {}
  for module, name in (
    (plots, "accuracy_bars"),
    (adapt_report, "divergence_curves"),
    (plots, "embedding_maps"),
  ):
    monkeypatch.setattr(
      module,
      name,
      lambda *_, name=name, **options: titles.update({name: options["title"]}),
    )
  job = types.SimpleNamespace(
    config=SMALL,
    run=types.SimpleNamespace(path=folder),
    data=types.SimpleNamespace(
      validation={"label": np.zeros(4)}, validation_sizes=(2, 2)
    ),
  )
  rows = gained(rows, gains)
  adapt_report.draw(job, rows)
  assert titles["accuracy_bars"] == title
