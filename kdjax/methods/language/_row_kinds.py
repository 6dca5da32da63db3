"""The common parts of the rows of language models and transformers."""

from typing import Any

from kdjax.methods._row import Row


def row(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A row of a method with a teacher and without labels by default."""
  options: dict[str, Any] = {"networks": ("teacher",), "cross_entropy": 0.0}
  return Row(title, summary, make, area="language", **(options | needs))
