"""The methods of federated learning, as their authors weigh them."""

from typing import Any

from kdjax import federated
from kdjax.methods._row import Row, lift

_CONSENSUS = ("student_logits", "consensus_logits")


def _row(title: str, summary: str, method: Any, **needs: Any) -> Row:
  options: dict[str, Any] = {"group": "clients"} | needs
  return Row(title, summary, method, area="federated", **options)


ROWS: dict[str, Row] = {
  "fedavg": _row(
    "FedAvg",
    "clients train on their labels alone; federated_average follows",
    None,
    tuned="",
    source="paper",
  ),
  "fedmd": _row(
    "FedMD",
    "a client on public examples meets the clients' mean logits",
    lift(federated.fedmd_loss, _CONSENSUS),
    cross_entropy=0.0,
    source="authors",
  ),
  "feddf": _row(
    "FedDF",
    "the server, on examples without labels, meets the consensus",
    lift(federated.feddf_loss, _CONSENSUS),
    cross_entropy=0.0,
    source="authors",
  ),
  "fedntd": _row(
    "FedNTD",
    "a client keeps the round's first answers for the classes not true",
    lift(federated.fedntd_loss, ("student_logits", "past_logits", "labels")),
    networks=("past",),
    source="authors",
  ),
  "fedgkt": _row(
    "FedGKT",
    "client and server teach each other by the logits that they send",
    lift(federated.fedgkt_loss),
    cross_entropy=0.0,
    networks=("teacher",),
    tuned="",
    source="authors",
  ),
}
