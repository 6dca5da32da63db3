"""FedProto: prototypes of the classes instead of parameters."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import federated
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import Row


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


ROWS = {
  "fedproto": Row(
    "FedProto",
    "embeddings stay near the global prototypes of their classes",
    _fedproto,
    area="federated",
    group="clients",
    source="authors",
  ),
}
