"""The methods of continual learning, as their authors weigh them."""

from typing import Any

from kdjax import continual
from kdjax.methods._row import Row, lift
from kdjax.methods.continual._losses import (
  STORED,
  der_plus_plus,
  er,
  icarl,
  lwf,
  parameter_importance,
  podnet,
)


def _row(title: str, summary: str, method: Any, **needs: Any) -> Row:
  options: dict[str, Any] = {"source": "mammoth, Split-MNIST"} | needs
  return Row(title, summary, method, area="continual", **options)


def _past(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A method that reads the network before the current task."""
  return _row(title, summary, method, networks=("past",), **needs)


def _replay(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A method that reads a draw from the buffer."""
  options: dict[str, Any] = {"domains": ("replay",)} | needs
  return _row(title, summary, method, **options)


ROWS: dict[str, Row] = {
  "sequential": _row(
    "sequential training",
    "the current task alone, which forgets the others",
    None,
    tuned="",
    source="",
  ),
  "er": _replay(
    "experience replay",
    "labels of replayed examples beside those of the current task",
    er,
    source="mammoth, where both are one batch",
  ),
  "der": _replay(
    "DER",
    "replayed examples keep the logits that they were stored with",
    lift(continual.der_loss, STORED),
    weight=0.2,
    source="mammoth, Split-MNIST, buffer of 200",
  ),
  "der_plus_plus": _replay(
    "DER++",
    "stored logits of one draw, and labels of a second one",
    der_plus_plus,
    weight=0.2,
    domains=("replay", "second_replay"),
    source="mammoth, Split-MNIST, buffer of 200",
  ),
  "fdr": _replay(
    "FDR",
    "replayed examples keep the probabilities that they were stored with",
    lift(continual.fdr_loss, STORED),
    weight=0.5,
    source="mammoth, Split-MNIST, buffer of 200; a step of its own there",
  ),
  "task_lwf": _past(
    "LwF over tasks",
    "the answers of the network before the task, over past classes",
    lwf,
  ),
  "icarl": _past(
    "iCaRL",
    "binary cross-entropies: past answers for past classes, labels for new",
    icarl,
    cross_entropy=0.0,
    tuned="",
  ),
  "podnet": _past(
    "PODNet",
    "pooled maps of all stages and embeddings stay near the past ones",
    podnet,
    weight=3.0,
    source="authors, CIFAR-100, before their factor for the number of classes",
  ),
  "lucir": _past(
    "LUCIR",
    "directions of embeddings stay near the past ones",
    lift(continual.lucir_loss, ("student_embeddings", "past_embeddings")),
    weight=5.0,
    source="authors, CIFAR-100, before their factor for the number of classes",
  ),
  "bic": _past(
    "BiC",
    "past answers, weighed by the share of past classes; bic_logits follow",
    lwf,
    cross_entropy=0.5,
    weight=0.5,
    source="paper, the second of equal tasks",
  ),
  "ewc": _past(
    "online EWC",
    "parameters of a large Fisher information stay near the past ones",
    parameter_importance,
    weight=90.0,
  ),
  "si": _past(
    "SI",
    "parameters that lowered the loss of past tasks stay near the past ones",
    parameter_importance,
    source="mammoth, Split-MNIST, with a damping of 0.9",
  ),
}
