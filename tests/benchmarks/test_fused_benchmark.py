"""The benchmark of fused divergences runs, and all compute the same."""

from benchmarks import _frame
from benchmarks import fused


def test_every_implementation_agrees_with_float64(tmp_path):
  flags = ["--size", "tiny", "--calls", "2"]
  flags += ["--out", str(tmp_path / "rows.jsonl")]
  rows = _frame.run(fused.make_cases, "", flags)
  assert {"kdjax", "kdjax, whole"} <= {row.implementation for row in rows}
  for row in rows:
    assert row.error < 1e-4, row
