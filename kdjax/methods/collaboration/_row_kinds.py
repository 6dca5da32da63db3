"""The common parts of the rows of collaborative and progressive learning."""

from typing import Any

from kdjax.methods._row import Row

NO_CODE = "kdjax: the authors published no code"


def peers(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method of peers, which includes their labels."""
  options: dict[str, Any] = {
    "networks": ("peer_0", "peer_1"),
    "group": "peers",
  } | needs
  return Row(
    title,
    summary,
    make,
    area="collaboration",
    cross_entropy=0.0,
    **options,
  )


def taught(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method of one student and one teacher or several."""
  options: dict[str, Any] = {"networks": ("teacher",), "group": "teachers"}
  return Row(title, summary, make, area="collaboration", **options | needs)
