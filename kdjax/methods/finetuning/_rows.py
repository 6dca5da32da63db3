"""The methods of fine-tuning that are a loss and its weights."""

from kdjax import finetuning
from kdjax.methods._row import Row, lift
from kdjax.methods.finetuning._row_kinds import row, trained

ROWS: dict[str, Row] = {
  "from_scratch": trained(
    "from scratch", "the target's labels alone, from new weights", start=""
  ),
  "finetune": trained("fine-tuning", "all layers from pretrained weights"),
  "bss": row(
    "BSS",
    "the smallest singular value of a batch's features is penalized",
    lift(finetuning.bss_loss, ("student_embeddings",)),
    weight=0.001,
    source="TLlib",
  ),
}
