"""Synaptic intelligence (SI)."""

from kdjax.methods.continual._parameter_importance import parameter_importance
from kdjax.methods.continual._row_kinds import past

# `continual.si_consolidate` after each task is the importance. The gradients
# are not cut, as those of mammoth are, value by value at 1.
ROWS = {
  "si": past(
    "SI",
    "parameters that lowered the loss of past tasks stay near the past ones",
    parameter_importance,
    source="mammoth, Split-MNIST, with a damping of 0.9",
  ),
}
