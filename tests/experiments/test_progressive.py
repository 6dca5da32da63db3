"""The job of students of several sizes, reduced."""

import json
import types

import numpy as np
import pytest

from experiments.progressive import __main__ as progressive
from experiments.progressive import methods as progressive_methods
from experiments.progressive import report as progressive_report
from experiments.progressive import training as progressive_training
from tests.experiments import runs

SMALL = progressive.Config(
  validation_examples=100,
  teacher=8,
  assistants=(6,),
  students=(3,),
  methods=("kd", "takd", "takd_search"),
  anchors=2,
  seeds=2,
  steps=8,
  evaluate_every=4,
)
STAGES = ("teacher", "3", "8-3", "6", "8-6", "8-6-3")


run, small = runs.of(progressive, SMALL)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"steps": 10}, "steps is 10; expected a multiple of evaluate_every"),
    ({"methods": ("dml",)}, r"methods is .*; expected one or more different"),
    ({"anchors": 3}, "anchors is 3; expected a divisor of the number"),
    (
      {"anchors": 1, "methods": ("kd", "rco")},
      "anchors is 1; expected 2 or more",
    ),
    ({"assistants": (8,)}, r"assistants is \(8,\); expected numbers below"),
    ({"students": (6,)}, r"students is \(6,\); expected numbers below the"),
    ({"num_assistants": 2}, "num_assistants is 2; expected at most 1"),
    ({"validation_examples": 1198}, "validation_examples is 1198; expected"),
    ({"examples_per_class": 500}, "examples_per_class is 500; expected at"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    progressive.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_every_method_is_described_named_and_drawn():
  names = progressive_methods.describe()
  assert {"takd", "takd_search", "dgkd", "rco", "sandwich"} <= set(names)
  rows = {*names, progressive_methods.SCRATCH, progressive_methods.TEACHER}
  assert rows == set(progressive_methods.NAMES)
  assert rows == set(progressive_report.COLOURS)
  assert len({*progressive_report.MARKERS.values()}) == len(rows)


def test_the_gain_of_an_assistant_is_told_for_each_student():
  one = np.array([[-0.01, 0.0, 0.01]])
  accuracy = {
    "scratch": np.concatenate([0.9 + one, 0.7 + one]),
    "kd": np.concatenate([0.92 + one, 0.72 + one]),
    "takd": np.concatenate([0.92 + one, 0.75 + 1.1 * one]),
    "teacher": np.concatenate([0.97 + one, 0.97 + one]),
  }
  chains = {"kd": [(64, 8), (64, 4)], "takd": [(64, 16, 8), (64, 16, 4)]}
  results = progressive_training.Results(accuracy, chains, {64: 0.97})
  config = types.SimpleNamespace(students=(4, 8), teacher=64)
  job = types.SimpleNamespace(config=config)
  texts = progressive_report.conclude(job, results)
  assert texts[0].startswith("8 units: from scratch 90.0%, 7.0 points below")
  assert "Clearly better than direct KD: TAKD, even accuracies +3.0" in texts[1]
  assert "64 > 16 > 8; 64 > 16 > 4" in texts[2]
  assert "+0.0 (8 units), +3.0 (4 units)" in texts[3]
  table = progressive_report.make_table(job, results)
  assert [len(x) for x in table.rows] == [5] * 4


@pytest.mark.slow
def test_a_run_leaves_a_report(tmp_path):
  rows = run(small(tmp_path / "run"))
  assert set(rows.accuracy) == {"scratch", *SMALL.methods, "teacher"}
  assert rows.accuracy["takd"].shape == (1, 2)
  assert rows.chains["takd"] == [(8, 6, 3)]
  assert rows.chains["takd_search"][0] in ((8, 3), (8, 6, 3))
  report = (tmp_path / "run" / "report.md").read_text()
  for text in ("(gap.png)", "too few seeds", "The 599 test images chose noth"):
    assert text in report
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  logged = [json.loads(line) for line in lines]
  assert [(row["stage"], row["step"]) for row in logged] == [
    (stage, step) for stage in STAGES for step in (4, 8)
  ]
