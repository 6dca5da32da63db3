"""The job of peers, reduced: flags, words, methods, resumption."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from experiments.collaborate import __main__ as collaborate
from experiments.collaborate import data as collaborate_data
from experiments.collaborate import methods as collaborate_methods
from experiments.collaborate import report as collaborate_report
from experiments.frame import statistics
from tests.experiments import runs

SMALL = collaborate.Config(
  examples_per_class=2,
  methods=("mutual_sequential", "codistillation"),
  peers=2,
  hidden=(6,),
  seeds=2,
  steps=8,
  evaluate_every=4,
  stale_steps=2,
  batch_size=8,
)
STAGES = ("independent", *SMALL.methods, "all_labels")


run, small = runs.of(collaborate, SMALL)
reference = runs.reference(run, small)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": 0}, "seeds is 0; expected a number above 0"),
    ({"steps": 10}, "steps is 10; expected a multiple of evaluate_every"),
    ({"stale_steps": 3}, "evaluate_every is 4; expected a multiple of stale"),
    ({"methods": ("dml",)}, "methods is .*; expected one or more different"),
    ({"peers": 1}, "peers is 1; expected 2 or more"),
    ({"methods": ("okddip",)}, "peers is 2; expected 3 or more for okddip"),
    ({"networks": ()}, "networks is .*; expected one or more names, up to 2"),
    ({"networks": ("lenet",)}, "name is 'lenet'; expected one of convnet"),
    ({"hidden": (0,)}, "hidden is .*; expected numbers above 0"),
    ({"burn_in": 1.0}, "burn_in is 1.0; expected 0 up to below 1"),
    (
      {"examples_per_class": 1000},
      "examples_per_class is 1000; expected at most",
    ),
  ],
)
def test_flags_that_will_not_do(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    collaborate.prepare(small(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_every_method_of_peers_is_described_and_drawn():
  names = collaborate_methods.describe()
  assert {"mutual", "mutual_sequential", "codistillation"} <= set(names)
  assert {"one", "okddip", "kdcl_linear", "kdcl_min_logit"} <= set(names)
  assert "independent" not in names
  rows = (*names, collaborate_methods.ALL_LABELS)
  assert set(rows) <= set(collaborate_report.COLOURS)
  assert len(collaborate_report.MARKERS) >= len(collaborate_report.COLOURS)


def test_peers_that_became_one_are_named():
  def seen(peer, ensemble, apart):
    one = np.array([[-0.01, 0.0, 0.01]])
    names = {"peer_0/accuracy": peer - 0.1, "peer_1/accuracy": peer + 0.1}
    names |= {"ensemble/accuracy": ensemble}
    rows = {name: value + one for name, value in names.items()}
    return rows | {"disagreement": np.full((1, 3), apart)}

  rows = {
    "independent": seen(0.8, 0.85, 0.2),
    "mutual": seen(0.82, 0.82, 0.01),
    "one": seen(0.82, 0.86, 0.1),
    "all_labels": seen(0.95, 0.96, 0.05),
  }
  config = types.SimpleNamespace(peers=2, networks=("mlp", "convnet"))
  job = types.SimpleNamespace(config=config)
  texts = collaborate_report.conclude(job, rows)
  assert "2 independent networks reach 80.0% each and 85.0%" in texts[0]
  assert "DML +0.0, ONE +4.0" in texts[-2]
  assert texts[-1].endswith("independent ones: DML (1.0%).")
  table = collaborate_report.make_table(job, rows)
  assert table.header[-2:] == ["mlp, %", "convnet, %"]
  assert table.rows[1][-2:] == ["72.0 ± 1.0", "92.0 ± 1.0"]
  gains = collaborate_report.gains_of(
    collaborate_report.finals(rows, "ensemble/accuracy")
  )
  assert gains["mutual"] == statistics.Gain(
    pytest.approx(-0.03), None, None, pytest.approx(0.5)
  )


@pytest.mark.slow
def test_a_run_leaves_a_report(reference):
  folder, rows = reference
  report = (folder / "report.md").read_text()
  assert (folder / "disagreement.png").stat().st_size > 10_000
  for text in (
    "# 2 peers on 2 labels a class of digits",
    "(disagreement.png)",
    "too few seeds for a verdict",
    "renewed every 2 steps, from step 2 on",
    "The 599 test images chose nothing",
  ):
    assert text in report
  assert tuple(rows) == STAGES
  for name in rows:
    assert f"\n| {collaborate_methods.NAMES[name]} |" in report
    assert rows[name]["disagreement"].shape == (2, 2)
  logged = [json.loads(line) for line in runs.lines_of(folder)]
  assert [(row["stage"], row["step"]) for row in logged] == [
    (stage, step) for stage in STAGES for step in (4, 8)
  ]


@pytest.mark.slow
def test_peers_start_alike_under_all_methods_and_differ_from_each_other(
  tmp_path,
):
  config = small(tmp_path, peers=3, networks=("mlp", "convnet"))
  data = collaborate_data.load_data(config)
  job = collaborate.prepare(dataclasses.replace(config, methods=("mutual",)))
  states = [
    collaborate_methods.make_learner(name, config, job.peers, 20).init(
      jax.random.key(3), data.spec()
    )
    for name in ("independent", "mutual_sequential", "codistillation", "one")
  ]
  for peer in ("peer_0", "peer_1", "peer_2"):
    for state in states[1:]:
      jax.tree.map(
        np.testing.assert_array_equal,
        state.params[peer],
        states[0].params[peer],
      )
  first, second, third = (
    jax.tree.leaves(states[0].params[f"peer_{i}"]) for i in range(3)
  )
  assert [x.shape for x in first] == [x.shape for x in third]
  assert [x.shape for x in first] != [x.shape for x in second]
  assert any(np.any(a != b) for a, b in zip(first, third, strict=True))
