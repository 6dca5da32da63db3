"""The methods of federated learning, as their authors weigh them."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import federated
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import Row, lift
from kdjax.methods.collaboration._peers import fedkd

_CONSENSUS = ("student_logits", "consensus_logits")


def _fedproto(
  prototypes: ArrayLike, *, available: ArrayLike = 1.0
) -> Objective:
  """FedProto; the prototypes are in the state, to be replaced each round."""

  def loss(
    student_embeddings: Array,
    labels: Array,
    *,
    prototypes: Array,
    available: Array,
  ) -> Array:
    known = jnp.broadcast_to(available > 0.5, prototypes.shape[:1])
    return federated.fedproto_loss(
      student_embeddings, labels, prototypes, known
    )

  return stateless(
    loss,
    prototypes=jnp.asarray(prototypes),
    available=jnp.asarray(available, float),
  )


def _row(title: str, summary: str, method: Any, **needs: Any) -> Row:
  return Row(title, summary, method, area="federated", **needs)


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
  "fedproto": _row(
    "FedProto",
    "embeddings stay near the global prototypes of their classes",
    _fedproto,
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
  "fedkd": _row(
    "FedKD",
    "a large mentor and a small mentee teach each other on a client",
    fedkd,
    cross_entropy=0.0,
    networks=("peer_0", "peer_1"),
    source="authors, without the hidden states",
  ),
}
