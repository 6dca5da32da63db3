"""The methods of continual learning that are a loss and its weights."""

from kdjax import continual
from kdjax.methods._row import Row, lift
from kdjax.methods.continual._der import STORED
from kdjax.methods.continual._row_kinds import past, replay, row

ROWS: dict[str, Row] = {
  "sequential": row(
    "sequential training",
    "the current task alone, which forgets the others",
    tuned="",
    group="baseline",
    source="",
  ),
  "fdr": replay(
    "FDR",
    "replayed examples keep the probabilities that they were stored with",
    lift(continual.fdr_loss, STORED),
    weight=0.5,
    source="mammoth, Split-MNIST, buffer of 200; a step of its own there",
  ),
  "lucir": past(
    "LUCIR",
    "directions of embeddings stay near the past ones",
    lift(continual.lucir_loss, ("student_embeddings", "past_embeddings")),
    weight=5.0,
    source="authors, CIFAR-100, before their factor for the number of classes",
  ),
}
