"""The comparison, reduced: files, pairing, resumption, words."""

import csv
import dataclasses
import functools
import json
import shutil
import types
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.compare import __main__ as compare
from experiments.compare import cells as compare_cells
from experiments.compare import data as compare_data
from experiments.compare import job as compare_job
from experiments.compare import methods as compare_methods
from experiments.compare import plots as compare_plots
from experiments.compare import report as compare_report
from experiments.compare import training as compare_training
from experiments.frame import folders, statistics
from kdjax import methods as kmethods
from kdjax import training
from kdjax.methods import _table
from tests.experiments import runs

pytestmark = pytest.mark.slow  # distill and the frame are quick

SMALL = compare.Config(
  methods=("kd,nothing", "vitkd", "tfkd"),
  pairs=("mlp:mlp",),
  assistant="mlp",
  seeds=2,
  workers=1,
  examples_per_class=2,
  epochs=4,
  teacher_epochs=2,
  evaluate_every=2,
  shift=0,
  checkpoint_seconds=0,
)
METHODS = ("scratch", "kd", "nothing", "tfkd")


# The tests only read it.
load_data = functools.cache(compare_data.load_data)


run, small = runs.of(compare, SMALL)


def rows_of(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module", autouse=True)
def nothing():
  """A method whose teacher has no weight."""
  row = kmethods.Row(
    "nothing", "teaches nothing", None, networks=("teacher",), kd=1e-30
  )
  kmethods.names()  # collects the rows
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(_table._rows, "nothing", row)
    yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """A run that was killed in the middle of a cell, and went on."""
  folder = tmp_path_factory.mktemp("reference") / "made"
  log = folders.RunFolder.log

  def die(self, **row):
    if (row["stage"], row["step"]) == ("mlp:mlp nothing", 4):
      raise KeyboardInterrupt
    log(self, **row)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(folders.RunFolder, "log", die)
    with pytest.raises(KeyboardInterrupt):
      run(small(folder, methods=("kd", "nothing")))
  cells = {file.stem for file in folder.glob("cells/*/*.json")}
  assert cells == {"scratch", "kd"}
  assert (folder / "checkpoints" / "mlp_to_mlp" / "nothing").exists()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compare_plots, "SHOWN", 60)
    return folder, run(small(folder, resume=True))


@pytest.mark.slow
def test_a_run_leaves_one_table(reference):
  folder, results = reference
  cells = results["mlp:mlp"]
  assert set(cells) == {*METHODS, "vitkd"}
  report = (folder / "report.md").read_text()
  for name in ("gains", "embeddings", "correlations"):
    assert (folder / f"mlp_to_mlp_{name}.png").stat().st_size > 10_000
    assert f"(mlp_to_mlp_{name}.png)" in report
  for text in (
    "| last epoch, % | best on validation, % | gain over scratch",
    "vitkd | not applicable",
    "Not applicable: vitkd: ",
    "too few seeds for a verdict",
    "Holm's correction",
    "entropy of its predictions",
    "Teachers see 899 labelled images, students 20 of them",
    f"jax {jax.__version__}",
  ):
    assert text in report
  records = json.loads((folder / "results.json").read_text())
  with (folder / "results.csv").open(newline="") as file:
    table = list(csv.DictReader(file))
  assert [row["method"] for row in table] == [x["method"] for x in records]
  for record in records:
    done = record["method"] != "vitkd"
    assert bool(record["not_applicable"]) != done
    assert (record["accuracy_mean"] is not None) == done


def test_every_round_is_logged_with_its_diagnostics(reference):
  folder, _ = reference
  stage = "mlp:mlp kd"
  rows = [row for row in rows_of(folder) if row["stage"] == stage]
  assert [row["step"] for row in rows] == [2, 4]
  for row in rows:
    for part in ("validation", "test"):
      assert set(row[part]) == {"accuracy", "agreement", "kl", "ece", "cka"}
    assert len(row["gradient_cosine"]) == len(row["gain_over_scratch"]) == 2
    assert set(row["losses"]) == {"loss", "ce/loss", "kd/loss"}
  stages = [row["stage"] for row in rows_of(folder)]
  assert stages.count("teacher mlp") == 1


def test_a_method_without_weight_is_scratch(reference):
  """Initial weights, images, order and shifts are shared, killed or not."""
  _, results = reference
  scratch, same = (results["mlp:mlp"][name] for name in ("scratch", "nothing"))
  assert same["test"] == scratch["test"]
  gain = compare_report.gains_over(results["mlp:mlp"], "scratch")["nothing"]
  assert (gain.mean, gain.low, gain.verdict) == (0, None, "unknown")


def test_a_killed_cell_went_on_from_its_checkpoint(reference):
  folder, results = reference
  rows = [row for row in rows_of(folder) if row["stage"] == "mlp:mlp nothing"]
  assert [row["step"] for row in rows] == [2, 4]
  history = results["mlp:mlp"]["nothing"]["history"]
  assert rows[0].items() >= history[0].items()
  assert not (folder / "checkpoints" / "mlp_to_mlp" / "nothing").exists()
  with pytest.raises(ValueError, match="--resume"):
    run(small(folder))
  with pytest.raises(ValueError, match="--seeds was 2 and is 3"):
    run(small(folder, resume=True, seeds=3))


def test_a_cell_that_fails_does_not_stop_the_others(
  reference, tmp_path, monkeypatch
):
  workdir = shutil.copytree(reference[0], tmp_path / "run")
  cells = workdir / "cells/mlp_to_mlp"
  for name in ("nothing", "vitkd"):
    (cells / f"{name}.json").unlink()
  # A pair that another run left unfinished has no table.
  scratch = json.loads((cells / "scratch.json").read_text())
  other = workdir / "cells/mlp_to_convnet/scratch.json"
  training.write_json(other, scratch | {"pair": "mlp:convnet"})
  train = compare_cells.run_cell

  def fail(job, pair, method):
    if method == "nothing":
      raise RuntimeError("out of memory\n in a long story")
    train(job, pair, method)

  monkeypatch.setattr(compare, "run_cell", fail)
  monkeypatch.setattr(compare_plots, "draw", lambda *args: {})
  with pytest.raises(ExceptionGroup, match="1 cells failed"):
    run(small(workdir, resume=True))
  report = (workdir / "report.md").read_text()
  assert "**Failed**: nothing: out of memory in a long story" in report
  assert "| vitkd | not applicable" in report
  assert "convnet" not in report


def test_cells_that_save_at_the_same_time_wait_for_each_other(tmp_path):
  def save(number):
    folder, tree = tmp_path / str(number), {"x": jnp.full(3, number)}
    for step in range(4):
      compare_job.save(folder, step, tree, [step])
    return compare_job.restore(folder, tree)

  with futures.ThreadPoolExecutor(4) as pool:
    for number, restored in enumerate(pool.map(save, range(4))):
      assert (restored.step, restored.position) == (3, [3])
      assert restored.tree["x"].tolist() == [number] * 3


def test_students_that_diverged_are_read_as_such(tmp_path):
  for method in ("scratch", "kd"):
    seen = {"accuracy": [0.1, 0.2], "kl": [float("nan"), 0.5]}
    cell = {"pair": "a:b", "method": method, "test": seen}
    training.write_json(tmp_path / "cells" / "a_to_b" / f"{method}.json", cell)
  job = types.SimpleNamespace(run=types.SimpleNamespace(path=tmp_path))
  cells = compare_report.read(job)["a:b"]
  gains = {"scratch": {}, "kd": {}}
  (finding,) = compare_report.findings(cells, gains)
  assert finding.endswith("scratch (1 of 2 seeds), kd (1 of 2 seeds).")


def cell_programs(method, teacher="mlp", student="mlp"):
  """The programs of a method's lessons for one seed, not compiled."""
  config = compare.resolve(dataclasses.replace(SMALL, seeds=1))
  data = load_data(config)
  recipe = compare_methods.make_recipe(config, "mlp", data, 20, 4)
  networks = [
    compare_methods.make_network(name, data, recipe, "float32")
    for name in (teacher, student)
  ]
  key = jax.random.key(0)
  guide = jax.eval_shape(networks[0].init, key)
  students = jax.eval_shape(jax.vmap(networks[1].init), key[None])
  course = compare_methods.make_course(
    method,
    student,
    networks[1],
    recipe,
    compare_training.Teacher(networks[0].forward, guide),
    epochs=4,
    labels=data.labels,
  )
  images = {k: v[:1] for k, v in data.students.items()}
  for lesson in course:
    if lesson is not None:
      program = compare_training.build(
        lesson, images, 10, epochs=1, chunk_size=None
      )
      variables = guide if lesson.teacher else {}
      inputs = key[None], students, variables
      start = functools.partial(jax.eval_shape, program.start, *inputs)
      yield (
        program._replace(start=start),
        (start(), *inputs[2:], images, key[None]),
      )


def test_dot_keeps_two_momenta():
  ((program, arguments),) = cell_programs("dot")
  state, losses = jax.eval_shape(program.advance, *arguments, jnp.int32(0))
  momenta = jax.tree.leaves(state.optimizer_state["momenta"])
  assert len(momenta) == 2 * len(jax.tree.leaves(state.params))
  assert "dot/distillation/loss" in losses
  assert jax.eval_shape(program.cosine, *arguments).shape == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "networks"),
  [("ft", ("resnet8", "resnet8x0.5")), ("ab", ("convnet", "convnet"))],
)
def test_a_stage_before_has_its_own_program(method, networks):
  (last, (state, *_)), (program, (before, *others)) = cell_programs(
    method, *networks
  )
  trained, _ = jax.eval_shape(program.advance, before, *others, jnp.int32(0))
  handed = last.start(trained)
  assert jax.tree.structure(handed) == jax.tree.structure(state)


def test_a_partner_is_asked_for():
  ((program, arguments),) = cell_programs("cskd")
  _, losses = jax.eval_shape(program.advance, *arguments, jnp.int32(0))
  assert set(losses) == {"loss", "ce/loss", "cskd/loss"}


def test_a_partner_is_another_image_of_the_class():
  label = jnp.array([0, 1, 1, 0, 1, 2])
  data = {"image": jnp.arange(6.0), "label": label}
  frozen = {"pool": compare_data.make_pool(data, 3)}
  index = jnp.tile(jnp.arange(6), 20)
  batch = {"index": index, "label": label[index]}
  loss_fn = compare_data.with_partners(lambda *args: args[3])
  seen = jax.jit(loss_fn)({}, {}, frozen, batch, jax.random.key(0))
  partner = np.asarray(seen["partner_image"], int)
  np.testing.assert_array_equal(label[partner], label[index])
  lonely = np.asarray(index) == 5  # the only one of its class
  np.testing.assert_array_equal(partner == np.asarray(index), lonely)
  assert {int(x) for x in partner[np.asarray(index) == 1]} == {2, 4}


def test_negatives_of_all_seeds_are_of_other_classes():
  data = load_data(compare.resolve(SMALL))
  labels = np.asarray(data.students["label"])
  np.testing.assert_array_equal(labels, [data.labels] * 2)
  images = np.asarray(data.students["image"])
  assert (images[0] != images[1]).any()
  ((_, (state, *_)),) = cell_programs("crd")
  sizes = state.state["objective"]["objectives"]["crd"]["classes"]["size"]
  assert sizes.shape == (1, 20)


@pytest.mark.parametrize(
  ("method", "student", "rate"),
  [("ft", "resnet8", 0.01), ("ft", "vgg8", 0.05), ("ab", "wrn-16-2", 0.05)],
)
def test_first_stages_learn_at_the_published_rate(method, student, rate):
  course = compare_methods.make_course(
    method,
    student,
    training.Network(None, None),
    training.cifar100_recipe(),
    None,
    epochs=1,
    labels=np.arange(20) % 10,
  )
  params = {"x": jnp.array(1.0)}
  optimizer = course.initialization.optimizer
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  np.testing.assert_allclose(updates["x"], -rate * 1.0005, rtol=1e-6)


def test_images_are_resized_everywhere():
  config = dataclasses.replace(compare.resolve(SMALL), image_size=4)
  data = compare_data.load_data(config)
  for part in (data.train, data.students, data.held_out):
    assert part["image"].shape[-3:] == (4, 4, 1)
  whole = load_data(compare.resolve(SMALL)).train["image"]
  assert data.train["image"].dtype == whole.dtype
  means = [np.asarray(x).mean() for x in (data.train["image"], whole)]
  np.testing.assert_allclose(*means, rtol=0.05)


def test_views_keep_the_shape():
  config = compare.resolve(SMALL)
  data = load_data(config)
  recipe = compare_methods.make_recipe(
    dataclasses.replace(config, shift=1), "mlp", data, 20, 4
  )
  names = ("strong", "rotated_1", "rotated_2", "rotated_3")
  views = compare_data.make_views(names, recipe.augment)
  batch = {"image": data.train["image"][:4]}
  key = jax.random.key(0)
  seen = jax.jit(lambda: {k: v(key, batch) for k, v in views.items()})()
  assert {(x.shape, x.dtype) for x in seen.values()} == {
    ((4, 8, 8, 1), jnp.dtype("uint8"))
  }
  np.testing.assert_array_equal(
    np.rot90(seen["rotated_1"], 2, axes=(1, 2)), seen["rotated_3"]
  )
  with pytest.raises(ValueError, match="no view other is made"):
    compare_data.make_views(("other",), recipe.augment)


def test_the_report_says_what_hurt():
  base = np.array([0.8, 0.82, 0.81, 0.79])
  noise = np.array([0.0, 0.01, -0.01, 0.005])
  values = {
    "scratch": base,
    "kd": base + 0.05 + noise[::-1],
    "at": base - 0.5 + noise,
    "sp": base + noise,
  }
  cells = {k: {"test": {"accuracy": v}} for k, v in values.items()}
  cells["at"]["test"]["kl"] = [0.1, np.nan, 0.2, np.nan]

  def findings(cells):
    gains = {
      over: compare_report.gains_over(cells, over) for over in ("scratch", "kd")
    }
    return "\n".join(compare_report.findings(cells, gains))

  text = findings(cells)
  for part in (
    "Clearly better than scratch: kd +5.1.",
    "Clearly worse than scratch: at -49.9.",
    "No clear difference from scratch: sp +0.1.",
    "Clearly better than plain KD: none.",
    "Clearly worse than plain KD: sp -5.0, at -55.0.",
    "less than half of scratch's accuracy: at (30.6 %).",
    "count as errors: at (2 of 4 seeds).",
  ):
    assert part in text
  two = {k: {"test": {"accuracy": v[:2]}} for k, v in values.items()}
  assert "lear" not in findings(two)
  assert statistics.TOO_FEW in findings(two)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ("kdd",)}, r"methods is \('kdd',\); expected one or more"),
    ({"methods": ()}, r"methods is \(\); expected one or more different ones"),
    ({"pairs": ()}, r"pairs is \(\); expected one or more pairs"),
    ({"pairs": ("mlp",)}, r"pairs is \('mlp',\); expected teacher:student, or"),
    ({"pairs": ("mlp:nothing",)}, "'nothing'; expected one of"),
    ({"epochs": 5}, "epochs is 5; expected a multiple of evaluate_every"),
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"workers": 0}, "workers is 0; expected a number above 0"),
    ({"assistant": "no", "methods": ("takd",)}, "'no'; expected one of"),
    ({"shift": -1}, "shift is -1; expected 0 or more"),
    ({"validation_fraction": 1.0}, "validation_fraction is 1.0; expected 0"),
  ],
)
def test_flags_that_do_not_go_together(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    compare.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_groups_and_recipes():
  config = compare.resolve(
    compare.Config(recipe="cifar100", pairs=("same", "different"))
  )
  assert len(config.pairs) == 13
  assert set(config.methods) == set(kmethods.names("distillation"))
  assert config.methods[:2] == ("scratch", "kd")
  assert (config.epochs, config.validation_fraction) == (240, 0)
  for name in compare.RECIPES:
    compare.resolve(compare.Config(recipe=name))
