"""The common parts of the rows of continual learning."""

from typing import Any

from kdjax.methods._row import Row

REGULARIZATION, REPLAY = "regularization", "replay"


def row(title: str, summary: str, make: Any = None, **needs: Any) -> Row:
  """A row of continual learning; its published values are mammoth's."""
  options: dict[str, Any] = {"source": "mammoth, Split-MNIST"} | needs
  return Row(title, summary, make, area="continual", **options)


def past(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method that reads the network before the current task."""
  options: dict[str, Any] = {"group": REGULARIZATION} | needs
  return row(title, summary, make, networks=("past",), **options)


def replay(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method that reads a draw from the buffer."""
  options = {"domains": ("replay",), "group": REPLAY} | needs
  return row(title, summary, make, **options)
