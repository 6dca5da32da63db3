"""Elastic weight consolidation (EWC), online."""

from kdjax.methods.continual._parameter_importance import parameter_importance
from kdjax.methods.continual._row_kinds import past

# `continual.ewc_fisher` after each task is the importance.
ROWS = {
  "ewc": past(
    "online EWC",
    "parameters of a large Fisher information stay near the past ones",
    parameter_importance,
    weight=90.0,
  ),
}
