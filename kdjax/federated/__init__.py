"""Federated learning: clients whose data stay where they are.

Averages of parameters, predictions and prototypes over clients, and the losses
by which clients and server learn from them. Every function is pure: arrays in,
arrays out. Clients are a leading axis, or a mapped one (`axis_name`).
"""

from kdjax.federated._averages import (
  confidence_weights,
  consensus_logits,
  federated_average,
  federated_prototypes,
)
from kdjax.federated._consensus_losses import feddf_loss, fedmd_loss
from kdjax.federated._fedgen import fedgen_diversity_loss, fedgen_generator_loss
from kdjax.federated._local_losses import (
  fedgkt_loss,
  fedkd_loss,
  fedntd_loss,
  fedproto_loss,
)
from kdjax.federated._messages import message_bytes
from kdjax.federated._privacy import privacy_epsilon
from kdjax.federated._private_consensus import private_consensus

__all__ = (
  "confidence_weights",
  "consensus_logits",
  "feddf_loss",
  "federated_average",
  "federated_prototypes",
  "fedgen_diversity_loss",
  "fedgen_generator_loss",
  "fedgkt_loss",
  "fedkd_loss",
  "fedmd_loss",
  "fedntd_loss",
  "fedproto_loss",
  "message_bytes",
  "privacy_epsilon",
  "private_consensus",
)
