"""The common parts of the rows of fine-tuning."""

from typing import Any

from kdjax.methods._row import Row

FEW_SHOT = "few-shot"


def row(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method that starts from the pretrained network."""
  options: dict[str, Any] = {"start": "past"} | needs
  return Row(title, summary, make, area="finetuning", **options)


def trained(title: str, summary: str, make: Any = None, **needs: Any) -> Row:
  """A method whose objective is the cross-entropy alone."""
  options: dict[str, Any] = {"tuned": ""} | needs
  return row(title, summary, make, **options)


def episodic(title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A method whose batch has the two parts of a task's examples."""
  options: dict[str, Any] = {
    "start": "",
    "group": FEW_SHOT,
    "domains": ("query", "support"),
  } | needs
  return trained(title, summary, make, **options)
