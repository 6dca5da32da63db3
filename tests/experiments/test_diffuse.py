"""The job of a diffusion model in few steps, reduced."""

import json
import types

import numpy as np
import pytest

from experiments.diffuse import __main__ as diffuse
from experiments.diffuse import methods as diffuse_methods
from experiments.diffuse import report as diffuse_report
from experiments.diffuse import training as diffuse_training
from tests.experiments import runs

SMALL = diffuse.Config(
  teacher_steps=2,
  width=8,
  seeds=2,
  steps=4,
  phase_steps=4,
  evaluate_every=2,
  batch_size=8,
  samples=20,
  levels=3,
  classifier_steps=4,
)
STAGES = ("classifier", "teacher", "progressive_1", "consistency")


run, small = runs.of(diffuse, SMALL)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"steps": 5}, "steps is 5; expected a multiple of evaluate_every"),
    ({"phase_steps": 5}, "phase_steps is 5; expected a multiple"),
    ({"methods": ("ddpm",)}, r"methods is .*; expected one or more different"),
    ({"teacher_steps": 12}, "teacher_steps is 12; expected a power of 2"),
    ({"levels": 1}, "levels is 1; expected 2 or more"),
    ({"samples": 1}, "samples is 1; expected 2 or more"),
    ({"target_decay": 1.0}, r"target_decay is 1\.0; expected a number"),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    diffuse.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_methods_are_compared_with_the_teacher_in_as_few_steps():
  one = np.array([-0.01, 0.0, 0.01])
  agreement = {
    "teacher": {4: 0.9 + one, 2: 0.6 + one, 1: 0.1 + one},
    "progressive": {2: 0.9 + 2 * one, 1: 0.8 + 2 * one},
    "consistency": {1: 0.1 - one},
  }
  distance = {
    name: {steps: 1 - x for steps, x in scores.items()}
    for name, scores in agreement.items()
  }
  results = diffuse_training.Results(
    agreement, distance, 0.97 + one, 0.1 + one, {}
  )
  assert set(diffuse_methods.describe()) < set(diffuse_methods.NAMES)
  gains = diffuse_report.gains_of(results)
  assert {k: x.verdict for k, x in gains.items()} == {
    "progressive 2": "helped",
    "progressive 1": "helped",
    "consistency 1": "unclear",
  }
  job = types.SimpleNamespace(config=types.SimpleNamespace(teacher_steps=4))
  texts = diffuse_report.conclude(job, results)
  assert texts[0].startswith("The teacher in 4 steps: 90.0% of samples")
  assert texts[1].endswith("the teacher in as many steps: 2, 1.")
  assert texts[2].endswith("the teacher in as many steps: never.")
  assert len(diffuse_report.make_table(results).rows) == 6


@pytest.mark.slow
def test_a_run_leaves_a_report(tmp_path):
  rows = run(small(tmp_path / "run"))
  assert set(rows.agreement["teacher"]) == {2, 1}
  assert set(rows.agreement["progressive"]) == {1}
  assert set(rows.agreement["consistency"]) == {1, 2}
  report = (tmp_path / "run" / "report.md").read_text()
  for text in ("(steps.png)", "(samples.png)", "Too few seeds"):
    assert text in report
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  logged = [json.loads(line) for line in lines]
  assert [(row["stage"], row["step"]) for row in logged] == [
    (stage, step) for stage in STAGES for step in (2, 4)
  ]
