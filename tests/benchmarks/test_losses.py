"""The benchmark runs, and its implementations compute the same thing."""

import json

from benchmarks import _frame
from benchmarks import losses


def test_every_implementation_agrees_with_float64(tmp_path):
  out = tmp_path / "new" / "rows.jsonl"
  flags = ["--size", "tiny", "--calls", "2", "--out", str(out)]
  rows = _frame.run(losses.make_cases, "", flags)
  records = [json.loads(line) for line in out.read_text().splitlines()]
  assert len(records) == len(rows)
  assert {"device", "jax", "compile_ms", "p90_ms"} <= records[0].keys()
  for row in rows:
    assert row.error < 1e-4, row
    assert row.p10_ms <= row.median_ms <= row.p90_ms
