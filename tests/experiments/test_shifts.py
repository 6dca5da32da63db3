"""The job of shifts, reduced: data, lessons, rules, words, resumption."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.svm import SVC

from experiments.frame import plots, rules
from experiments.shifts import __main__ as shifts
from experiments.shifts import choice as shifts_choice
from experiments.shifts import data as shifts_data
from experiments.shifts import methods as shifts_methods
from experiments.shifts import report as shifts_report
from experiments.shifts.methods import METHODS
from tests.experiments import runs

pytestmark = pytest.mark.slow  # distill and the frame are quick

SMALL = shifts.Config(
  shifts=("target", "concept"),
  methods=("bbse", "linear_ot"),
  seeds=2,
  size=20,
  test_size=20,
)


run, small = runs.of(shifts, SMALL)
reference = runs.reference(run, small)


def test_a_run_leaves_a_report(reference):
  folder, results = reference
  report = (folder / "report.md").read_text()
  for name in ("gains", "data"):
    assert (folder / f"{name}.png").stat().st_size > 10_000
    assert f"({name}.png)" in report
  for text in (
    "On the target shift source-only reaches",
    "## Chosen without target labels",
    "## Chosen by an oracle, with labels of target validation points",
    "| importance weighted |",
    "| the oracle, by target labels |",
    "| gain in points | target | concept |",
    "target: 160 training, 40 validation and 160 target test points",
    "within 2 points of the best. Test points chose nothing.",
  ):
    assert text in report
  for name in ("source-only", "BBSE", "linear OT", "target-only"):
    assert f"\n| {name} |" in report
  assert list(results) == ["target", "concept"]
  for rows in results.values():
    assert list(rows) == ["source_only", "bbse", "linear_ot", "target_only"]
    for row in rows.values():
      assert {*rules.RULES, "oracle", "chance"} == set(row)
      assert all(values.shape == (2,) for values in row.values())
  cell = json.loads((folder / "cells" / "concept" / "bbse.json").read_text())
  assert cell["candidates"] == ["hard", "soft"]
  assert [len(row) for row in cell["seen"]] == [2, 2]


def test_a_run_that_was_cut_off_goes_on_to_the_same_result(
  reference, tmp_path, monkeypatch, capsys
):
  for name in ("gain_maps", "samples"):
    monkeypatch.setattr(shifts_report, name, lambda *_, **options: {})
  folder, results = reference
  workdir = tmp_path / "cut"
  shutil.copytree(folder, workdir)
  (workdir / "cells" / "concept" / "linear_ot.json").unlink()
  (workdir / "cells" / "target" / "source_only.json").unlink()
  again = run(small(workdir, resume=True, select="dev"))
  assert "resuming: 6 of 8 cells are done" in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, again, results)
  assert "control variate (DEV)." in (workdir / "report.md").read_text()
  with pytest.raises(ValueError, match="--size was 20 and is 21"):
    run(small(workdir, resume=True, size=21))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"size": 19}, "size is 19; expected 20 or more"),
    ({"test_size": 0}, "test_size is 0; expected a number above 0"),
    ({"shifts": ()}, r"shifts is \(\); expected one or more different"),
    ({"shifts": ("target",) * 2}, "expected one or more different shifts"),
    ({"methods": ("dann",)}, r"methods is \('dann',\); expected one or more"),
    ({"methods": ()}, r"methods is \(\); expected one or more different ones"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    run(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def drawn(shift, domain, size=2000, seed=0):
  generator = np.random.default_rng(seed)
  return shifts_data.draw(generator, shift, domain, size)


def moments(sample, label):
  points = sample.points[sample.labels == label]
  return points.mean(0), np.cov(points.T)


@pytest.mark.parametrize("shift", shifts_data.SHIFTS)
def test_classes_lie_where_skada_bench_has_them(shift):
  source, target = drawn(shift, "source"), drawn(shift, "target", 500)
  factor = 12 if shift == "subspace" else 8
  assert source.points.shape == (2000 * factor, 2)
  assert source.points.dtype == np.float32
  assert source.labels.mean() == 0.5
  assert len(target.labels) == 500 * factor
  noise = np.square(shifts_data.NOISE[shift]) * np.eye(2)
  if shift == "subspace":
    means, spread = [(-1.0, 1.0), (0.5, -0.5)], 0.25 * np.eye(2)
  else:
    # A quarter of the square is the covariance of points of the unit disc.
    matrix = np.array([[2.0, -0.5], [-0.5, 2.0]])
    means, spread = [(2.0, 2.0), (0.5, 0.65)], matrix @ matrix / 4
  for label, mean in enumerate(means):
    np.testing.assert_allclose(moments(source, label)[0], mean, atol=0.06)
  np.testing.assert_allclose(moments(source, 0)[1], spread + noise, atol=0.06)
  # How the target differs.
  if shift == "target":
    assert abs(target.labels.mean() - 0.1) < 1e-3
    scale, move = 1.0, 0.0
  elif shift == "concept":
    scale, move = 0.7, 1.0
  elif shift == "subspace":
    scale, move = -1.0, 0.0
  else:
    return
  for label, mean in enumerate(means):
    expected = scale * np.array(mean) + move
    np.testing.assert_allclose(moments(target, label)[0], expected, atol=0.15)
  np.testing.assert_allclose(
    moments(target, 0)[1], scale**2 * spread + noise, atol=0.15
  )


def test_the_covariate_shift_weights_points_alone(monkeypatch):
  monkeypatch.setitem(shifts_data.NOISE, "covariate", 0.0)
  source = drawn("covariate", "source", 50_000)
  target = drawn("covariate", "target", 100)
  distance = np.square(source.points - (-0.4, 3.0)).sum(1)
  weights = np.exp(-2 * distance)
  mean = np.average(source.points, 0, weights)
  np.testing.assert_allclose(target.points.mean(0), mean, atol=0.1)
  share = np.average(source.labels, weights=weights)
  assert abs(target.labels.mean() - share) < 0.06


@pytest.mark.packages
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shift", shifts_data.SHIFTS)
def test_data_and_source_only_are_those_of_skada(shift):
  datasets = pytest.importorskip("skada.datasets", exc_type=ImportError)
  size = 300 if shift == "subspace" else 100
  names = {"subspace": "subspace", "concept": "conditional_shift"}
  both = []
  for seed in range(10):
    points, labels, domains = datasets.make_shifted_datasets(
      size,
      size,
      shift=names.get(shift, f"{shift}_shift"),
      noise=shifts_data.NOISE[shift],
      center_cov_shift=(-0.4, 3),
      random_state=seed,
    )
    parts = [
      shifts_data.Sample(points[rows].astype(np.float32), labels[rows])
      for rows in (domains > 0, domains < 0)
    ]
    ours = [drawn(shift, x, 100, seed=seed) for x in ("source", "target")]
    row = []
    for source, target in (parts, ours):
      lesson = shifts_methods.Lesson(*source)
      predicted = shifts_methods.fit(lesson)(target.points) > 0
      theirs = SVC().fit(*source).predict(target.points)
      np.testing.assert_array_equal(predicted, theirs)
      values = [np.mean(predicted == target.labels), target.labels.mean()]
      for sample in (source, target):
        for label in range(2):
          mean, covariance = moments(sample, label)
          values += [*mean, *covariance[np.triu_indices(2)]]
      row.append(values)
    both.append(row)
  theirs, ours = np.swapaxes(both, 0, 1)
  error = np.sqrt((theirs.var(0, ddof=1) + ours.var(0, ddof=1)) / 10)
  gap = np.abs(theirs.mean(0) - ours.mean(0))
  assert np.all(gap < 5 * error + 1e-3)


@pytest.fixture(scope="module")
def problems():
  config = dataclasses.replace(SMALL, test_size=100)
  return {
    shift: shifts_choice.make_problem(config, shift, 0)
    for shift in shifts_data.SHIFTS
  }


# A method, its candidate, the shift it is made for, and what it gains there.
HELPED = {
  "bbse": (0, "target", 0.03),
  "tars": (1, "target", 0.03),
  "coral": (1, "concept", 0.08),
  "linear_ot": (0, "concept", 0.08),
  "subspace": (1, "concept", 0.08),
  "ot": (1, "concept", 0.08),
  "joint_ot": (0, "concept", 0.08),
  "jda": (0, "subspace", 0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_teaches_and_helps_where_it_should(name, problems):
  index, shift, gain = HELPED.get(name, (0, "covariate", -0.08))
  problem = problems[shift]
  candidate = METHODS[name].candidates[index]
  seen = shifts_choice.examine(problem, name, candidate)
  before = shifts_choice.examine(problem, "source_only", None)
  assert seen.test_accuracy - before.test_accuracy > gain
  assert set(seen.scores) == set(before.scores)
  assert all(np.isfinite(x) for x in seen.scores.values())
  lesson = METHODS[name].learn(problem.train, candidate)
  assert np.all(np.isfinite(lesson.points))
  assert len(lesson.points) == len(lesson.labels)
  if lesson.weights is not None:
    assert np.all(lesson.weights >= 0)
    np.testing.assert_allclose(lesson.weights.mean(), 1, rtol=1e-4)


def test_target_labels_reach_the_oracle_and_target_only_alone(problems):
  problem = problems["concept"]
  wrong = problem._replace(
    target=problem.target._replace(labels=1 - problem.target.labels),
    target_labels=1 - problem.target_labels,
  )
  for name in ("source_only", "linear_ot"):
    candidate = shifts_choice.candidates_of(name)[0]
    seen, other = (
      shifts_choice.examine(x, name, candidate) for x in (problem, wrong)
    )
    assert seen.scores == other.scores
    assert seen.test_accuracy == other.test_accuracy
    np.testing.assert_allclose(seen.target_accuracy, 1 - other.target_accuracy)
  first, second = (
    shifts_choice.examine(x, "target_only", None) for x in (problem, wrong)
  )
  np.testing.assert_allclose(first.test_accuracy, 1 - second.test_accuracy)


def test_a_plan_sends_points_and_labels_to_where_they_went(problems):
  task = problems["concept"].train
  order = np.random.default_rng(0).permutation(len(task.source))
  moved = task._replace(target=task.source[order] + np.float32(3.0))
  sent = METHODS["ot"].learn(moved, 0.02)
  shift = sent.points - task.source
  # What the plan blurs, it blurs on all sides.
  np.testing.assert_allclose(shift.mean(0), 3.0, atol=1e-2)
  assert np.abs(shift - 3.0).mean() < 0.5
  np.testing.assert_allclose(sent.map_source(task.source), sent.points)
  labels = METHODS["joint_ot"].learn(moved, 1.0).labels
  assert np.mean(labels == task.labels[order]) > 0.85


def test_the_classifier_minds_weights_and_knows_a_single_class():
  points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
  labels = np.array([0, 0, 1, 1])
  one = shifts_methods.Lesson(points, labels, np.array([0.0, 0.0, 2.0, 2.0]))
  assert np.all(shifts_methods.fit(one)(points) == 1)
  none = shifts_methods.Lesson(points, np.zeros(4, int))
  assert np.all(shifts_methods.fit(none)(points) == -1)
  heavy = np.array([3.9, 0.0, 0.1, 0.0])
  margins = shifts_methods.fit(shifts_methods.Lesson(points, labels, heavy))
  light = shifts_methods.fit(shifts_methods.Lesson(points, labels))
  assert margins(points[1:2]) < light(points[1:2])
  assert np.all((light(points) > 0) == labels)
  logits = shifts_methods.logits(np.array([0.5, -2.0]))
  chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(chances[:, 1], 1 / (1 + np.exp([-1.0, 4.0])))


NAMES = (
  "source_accuracy",
  "importance_weighted",
  "dev",
  "reverse",
  "entropy",
  "information",
  "bnm",
  "snd",
)


def test_each_rule_looks_at_what_it_may():
  draw = np.random.default_rng(0).uniform
  for _ in range(20):
    seen = [
      shifts_choice.Seen(
        {x: float(draw()) for x in NAMES}, float(draw()), float(draw())
      )
      for _ in range(4)
    ]
    chosen = shifts_choice.choose(seen)
    for name in NAMES:
      best = max(seen, key=lambda x, name=name: x.scores[name])
      assert chosen[name] == best.test_accuracy
    best = max(seen, key=lambda x: x.target_accuracy)
    assert chosen["oracle"] == best.test_accuracy
    np.testing.assert_allclose(
      chosen["chance"], np.mean([x.test_accuracy for x in seen])
    )


def test_scores_by_hand():
  hits = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
  ratios = np.array([1.0, 3.0, 0.0, 0.0], np.float32)
  logits = shifts_methods.logits(np.array([50.0, -50.0, 50.0, -50.0]))
  scores = jax.device_get(shifts_choice.scores_of(hits, ratios, logits))
  assert scores["source_accuracy"] == 0.75
  assert scores["importance_weighted"] == -0.75  # 3 of 4 by weight are wrong
  np.testing.assert_allclose(scores["information"], np.log(2), rtol=1e-5)
  np.testing.assert_allclose(scores["entropy"], 0, atol=1e-5)


def fabricated(gains):
  """Results of one shift; gains of BBSE by seed, none of linear OT."""
  source = 0.7 + 0.01 * np.arange(len(gains))
  rows = {
    "source_only": source,
    "bbse": source + gains,
    "linear_ot": source,
    "target_only": source + 0.1,
  }
  names = (*rules.RULES, "oracle", "chance")
  return {
    method: {rule: values + 0.05 * (rule == "oracle") for rule in names}
    for method, values in rows.items()
  }


def say(results):
  verdicts = {
    shift: shifts_report.judge(rows, "guarded")
    for shift, rows in results.items()
  }
  return verdicts, shifts_report.conclude(results, "guarded", verdicts)


def test_findings_and_tables_say_the_same():
  gain = np.array([0.1, 0.11, 0.09, 0.1])
  results = {"target": fabricated(gain), "concept": fabricated(-gain)}
  verdicts, findings = say(results)
  assert findings == [
    "On the target shift source-only reaches 71.5% and target-only 81.5%. "
    "Clearly better than source-only: BBSE +10.0. Clearly worse than "
    "source-only: none. No clear difference from source-only: linear OT +0.0.",
    "On the concept shift source-only reaches 71.5% and target-only 81.5%. "
    "Clearly better than source-only: none. Clearly worse than source-only: "
    "BBSE -10.0. No clear difference from source-only: linear OT +0.0.",
    "Clearly better on one shift and clearly worse on another: BBSE.",
    "Clearly better on a shift and clearly worse on none: no method.",
    "Choosing without target labels cost at most 5.0 points (BBSE on the "
    "target shift) and 5.0 on average.",
  ]
  table = shifts_report.make_table(results, "guarded", verdicts)
  assert table.header == ["", "target, %", "concept, %"]
  assert table.rows[1] == ["BBSE", "81.5 ± 1.3 **+**", "61.5 ± 1.7 **-**"]
  table = shifts_report.intervals(verdicts)
  assert table.rows[0][1].startswith("+10.0 (+8.7 to +11.3)")
  table = shifts_report.compare_rules(results)
  assert table.header[-1] == "mean"
  rows = {name: values for name, *values in table.rows}
  assert rows["guarded"] == ["5.0 ± 0.4", "-5.0 ± 0.4", "0.0 ± 0.0"]


@pytest.mark.parametrize(
  ("gains", "title"),
  [
    ((0.1, 0.11, 0.1), "No method helps on more than 1 of 1 shifts"),
    ((0.1, -0.1, 0.0), "No method is clearly better than source-only"),
    ((0.1, 0.11), "Too few seeds for a verdict"),
  ],
)
def test_the_map_claims_what_the_seeds_show(
  gains, title, monkeypatch, tmp_path
):
  seen, draw = [], plots.heat_map

  def heat_map(axes, points, **options):
    seen.append((points, options))
    draw(axes, points, **options)

  monkeypatch.setattr(plots, "heat_map", heat_map)
  results = {"target": fabricated(np.array(gains))}
  verdicts, findings = say(results)
  assert ("too few seeds" in findings[0]) == (len(gains) < 3)
  titles, write = [], Figure.suptitle
  monkeypatch.setattr(
    Figure,
    "suptitle",
    lambda self, text, **x: (titles.append(text), write(self, text, **x)),
  )
  shifts_report.gain_maps(
    tmp_path / "gains.png",
    {"one": verdicts, "other": verdicts},
    {"target": 0.7},
    {"target": 0.8},
  )
  assert titles[0].replace("\n", " ").startswith(title)
  points, options = seen[0]
  assert options["rows"] == ["BBSE", "linear OT", "target-only"]
  expected = [100 * np.mean(gains), 0, 10]
  np.testing.assert_allclose(points[:, 0], expected, atol=1e-9)
