"""Methods for language models that learn no part of their own."""

from kdjax import language
from kdjax.methods._row import lift
from kdjax.methods.language._row_kinds import row

ROWS = {
  "seqkd": row(
    "sequence-level KD, Kim 2016",
    "labels are the text that the teacher has written",
    None,
    networks=(),
    cross_entropy=1.0,
    tuned="",
    source="paper",
  ),
  "adaptive_kl": row(
    "AKL, Wu 2025",
    "forward KL for the teacher's head, reverse KL for its tail",
    lift(language.adaptive_kl_loss),
    weight=0.5,
    cross_entropy=0.5,
    source="DSKD, scripts, kd_rate",
  ),
}
