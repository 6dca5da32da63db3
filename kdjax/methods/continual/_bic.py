"""Bias correction (BiC)."""

from kdjax.methods.continual._row_kinds import past
from kdjax.methods.continual._task_lwf import task_lwf

# The published weights grow with the share of past classes; these are those of
# the second of equal tasks. The second stage is `continual.bic_logits`.
ROWS = {
  "bic": past(
    "BiC",
    "past answers, weighed by the share of past classes; bic_logits follow",
    task_lwf,
    cross_entropy=0.5,
    weight=0.5,
    source="paper, the second of equal tasks",
  ),
}
