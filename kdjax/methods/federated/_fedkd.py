"""FedKD: a mentor and a mentee on a client."""

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import federated, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import Row
from kdjax.methods.collaboration._peers import select_peers, supervised


def _fedkd(*, weight: ArrayLike = 1.0) -> Objective:
  """FedKD: the mentor `peer_0` and the mentee `peer_1` teach each other."""

  def loss(
    logits: Array,
    labels: Array,
    *,
    weight: ArrayLike,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    options = {"where": where, "axis_name": axis_name}
    both = federated.fedkd_loss(logits[0], logits[1], labels, **options)
    both += federated.fedkd_loss(logits[1], logits[0], labels, **options)
    own = ops.masked_mean(
      supervised(logits, labels), where, axis_name=axis_name
    )
    return own + weight * both

  return stateless(loss, select_peers, weight=weight)


# The authors also match the hidden states of both.
ROWS = {
  "fedkd": Row(
    "FedKD",
    "a large mentor and a small mentee teach each other on a client",
    _fedkd,
    area="federated",
    group="clients",
    cross_entropy=0.0,
    networks=("peer_0", "peer_1"),
    source="authors, without the hidden states",
  ),
}
