"""The methods of peers as learners."""

import math
from collections.abc import Sequence
from typing import Any

import optax

from kdjax import methods as kmethods
from kdjax import training

INDEPENDENT = "independent"
# Independent networks with all labels: the upper bound.
ALL_LABELS = "all_labels"
# Mutual learning whose peers move one after the other.
SEQUENTIAL = "mutual_sequential"
PEERS = tuple(
  name
  for name in kmethods.names("collaboration")
  if "peer_0" in kmethods.describe(name).networks
)
METHODS = tuple(
  name
  for known in PEERS
  if known != INDEPENDENT
  for name in ((known, SEQUENTIAL) if known == "mutual" else (known,))
)
NAMES = {name: kmethods.describe(name).title for name in PEERS} | {
  INDEPENDENT: "independent",
  SEQUENTIAL: "DML, sequential",
  ALL_LABELS: "independent, all labels",
}


def known_as(name: str) -> str:
  """The name in `kmethods.names()` of the method that one trains by."""
  return {SEQUENTIAL: "mutual", ALL_LABELS: INDEPENDENT}.get(name, name)


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  rows = {name: kmethods.describe(known_as(name)) for name in METHODS}
  kinds = {name: (row.area, row.summary) for name, row in rows.items()}
  kinds[SEQUENTIAL] = (
    "collaboration",
    f"{rows[SEQUENTIAL].summary}, one after the other",
  )
  return kinds


def networks_of(config: Any) -> list[str]:
  """The network's name of each peer."""
  names = config.networks
  return [names[i % len(names)] for i in range(config.peers)]


def make_learner(
  name: str, config: Any, peers: Sequence[training.Network], labelled: int
) -> training.Learner:
  """The learner of a method with its published weights.

  `labelled` is the number of images of an epoch.
  """
  options: dict[str, Any] = {}
  if is_stale(name):
    options["burn_in"] = round(config.burn_in * config.steps)
  method = kmethods.create(
    known_as(name),
    steps_per_epoch=math.ceil(labelled / config.batch_size),
    **options,
  )
  if name == SEQUENTIAL:
    turns = [kmethods.Turn(moves=(f"peer_{i}",)) for i in range(len(peers))]
    method = method._replace(update=kmethods.alternate(*turns))
  optimizer = optax.adam(config.learning_rate)
  return training.collaborate(peers, method, optimizer)


def is_stale(name: str) -> bool:
  """Whether a method reads the peers of some steps before."""
  return "stale_0" in kmethods.describe(known_as(name)).networks
