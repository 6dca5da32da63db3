"""The common parts of the rows of generalization.

Defaults and ranges are DomainBed's where it has the method, else those of its
paper.
"""

from typing import Any

from kdjax.methods._row import Row, Search

AROUND_ONE = {"low": 0.1, "high": 10.0}
LONG = {"low": 0.1, "high": 1e5}
ANNEAL = Search(0.1, 2e-4, 2.0)


def row(title: str, summary: str, make: Any = None, **needs: Any) -> Row:
  """A row of generalization."""
  options: dict[str, Any] = {"source": "DomainBed"} | needs
  return Row(title, summary, make, area="generalization", **options)
