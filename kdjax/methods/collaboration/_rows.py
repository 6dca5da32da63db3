"""The methods of collaboration that are a loss and its weights."""

from kdjax import collaboration
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import lift
from kdjax.methods.collaboration._peers import select_peers, supervised
from kdjax.methods.collaboration._row_kinds import peers, taught


def _independent() -> Objective:
  """Peers that do not know of each other."""
  return stateless(supervised, select_peers)


ROWS = {
  "independent": peers(
    "independent peers",
    "each peer on labels alone",
    _independent,
    tuned="",
  ),
  "refilled_relation": taught(
    "ReFilled, stage 1",
    "a teacher of other classes compares examples",
    lift(collaboration.refilled_relation_loss),
    weight=1000.0,
    cross_entropy=0.0,
    source="authors, tuples",
  ),
}
