"""The benchmarks run, and what they compare computes the same thing."""

import json
import re

import jax
import numpy as np
import pytest

from benchmarks import (
  _frame,
  _report,
  fused,
  layers,
  losses,
  memory,
  pairwise,
  steps,
  sweep,
  token_cache,
  turns,
)

TINY = ["--size", "tiny", "--calls", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("module", [losses, fused, pairwise, layers])
def test_every_implementation_agrees_with_float64(module, tmp_path):
  out, table, plot = (tmp_path / x for x in ("new/rows.jsonl", "a.md", "a.png"))
  rows = _frame.run(
    module.make_cases,
    "",
    [
      *TINY,
      "--no-isolate",
      *("--out", str(out), "--markdown", str(table), "--plot", str(plot)),
    ],
  )
  for row in rows:
    assert row.error < 1e-4, row
    assert row.p10_ms <= row.median_ms <= row.p90_ms
  records = [json.loads(line) for line in out.read_text().splitlines()]
  assert len(records) == len(rows)
  assert {"device", "jax", "compile_ms", "memory_mib"} <= records[0].keys()
  assert len(table.read_text().splitlines()) == len(rows) + 2
  assert plot.stat().st_size > 1000


@pytest.mark.slow
def test_turns_compare_with_the_best_peer(capsys):
  turns.main(["--size", "tiny", "--rounds", "3", "--only", "jsd"])
  (line,) = capsys.readouterr().out.splitlines()
  own, plain = map(float, re.findall(r"\(([\d.]+)\)", line))
  assert line.startswith("generalized_jsd_loss [8, 10]: kdjax ")
  assert own > 0
  assert plain == 1


@pytest.mark.slow
def test_an_implementation_has_a_process_of_its_own(tmp_path, capsys):
  flags = [*TINY, "--only", "coral", "--out", str(tmp_path / "rows.jsonl")]
  rows = _frame.run(losses.make_cases, "", [*flags, "--no-peers"])
  assert [row.implementation for row in rows] == ["kdjax"]
  assert rows[0].error < 1e-4
  task = {"case": "none", "implementation": "kdjax", "folder": ""}
  with pytest.raises(RuntimeError, match="StopIteration"):
    _frame.in_child("benchmarks.losses", _frame.parse("", flags), task)


def results(case, name):
  """What a program of a case makes of its inputs."""
  program = case.jax[name]
  return jax.jit(program.function)(*program.own, *case.inputs())


@pytest.mark.slow
def test_steps_equal_those_written_by_hand():
  case = steps.make_cases(_frame.parse("", TINY))[0]
  assert {"kdjax", "kdjax, apart"} < set(case.jax)
  _, metrics = results(case, "kdjax")
  total, count = metrics["loss"]
  state, losses = results(case, "by hand, same networks")
  np.testing.assert_allclose(total / count, losses, rtol=1e-4)
  assert case.operations > 0
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.slow
def test_students_of_a_sweep_do_not_depend_on_how_many_are_taken_at_a_time():
  (case,) = sweep.make_cases(_frame.parse("", TINY))
  (_, together), (_, alone) = (
    results(case, name) for name in ("kdjax", "kdjax, 1 at a time")
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), together, alone
  )


def test_a_row_is_set_against_its_floor_and_the_best_peer():
  def row(name, milliseconds):
    times = milliseconds, 1.0, 2.0
    return _frame.Row(
      "a [1]", "a", 1, "rows", name, None, *times, 0.5, None, None
    )

  rows = [row("kdjax", 1.0), row("torch", 4.0), row("plain", 2.0)]
  cells = dict(zip(_report.HEADER, _report.cells(rows[0], rows), strict=True))
  assert cells["x floor"] == "2.0"
  assert cells["x best peer"] == "0.50"
  assert cells["error"] == cells["MiB"] == ""


@pytest.mark.slow
def test_programs_of_the_account_agree_and_one_needs_less(capsys):
  rng = np.random.default_rng(0)
  shapes = (8, 4), (300, 4), (8, 6), (300, 6)
  arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
  labels = rng.integers(300, size=8)
  values = [
    jax.jit(jax.value_and_grad(loss, (0, 1)))(*arrays, labels)
    for loss in (memory.in_chunks, memory.materialized)
  ]
  for value, expected in zip(*map(jax.tree.leaves, values), strict=True):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
  flags = ["--vocab", "8000", "--widths", "4", "8", "--tokens", "2048"]
  memory.main(flags)
  ours, whole = capsys.readouterr().out.splitlines()[2:]
  sizes = [float(row.split("|")[-2].replace(",", "")) for row in (ours, whole)]
  assert sizes[0] < sizes[1] / 4


@pytest.mark.slow
def test_fewer_classes_of_a_token_need_fewer_bytes():
  few, many = (
    token_cache.bytes_per_token(8, 512, 400, top_k=count, dtype="bfloat16")
    for count in (16, 128)
  )
  # An array_record file has blocks of 64 KiB, the last one of which is padded.
  assert 16 * 2 < few < 16 * (2 + 4) + 2**16 / (8 * 512)
  assert 128 * 2 < many < 128 * (2 + 4)
