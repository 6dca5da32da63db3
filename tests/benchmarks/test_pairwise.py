"""The benchmark of pairwise losses runs, and all its peers agree."""

from benchmarks import _frame
from benchmarks import pairwise


def test_every_implementation_agrees_with_float64(tmp_path):
  out = tmp_path / "rows.jsonl"
  flags = ["--size", "tiny", "--calls", "2", "--out", str(out)]
  rows = _frame.run(pairwise.make_cases, "", flags)
  assert len(out.read_text().splitlines()) == len(rows)
  for row in rows:
    assert row.error < 1e-4, row
  table = pairwise.markdown(rows).splitlines()
  assert len(table) == len(rows) + 2
