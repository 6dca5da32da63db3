"""The common parts of the rows of distillation."""

from typing import Any

from kdjax.methods._row import Row

REPDISTILLER = "RepDistiller, scripts/run_cifar_distill.sh"
MDISTILLER = "mdistiller, configs/cifar100"
CLS_KD = "cls_KD, configs/distillers/cifar100"
LSKD = "logit-standardization-KD, tools/train.py"


def row(group: str, title: str, summary: str, make: Any, **needs: Any) -> Row:
  """A row of a method with a teacher, unless it says other `networks`."""
  options: dict[str, Any] = {"networks": ("teacher",)} | needs
  return Row(title, summary, make, group=group, **options)
