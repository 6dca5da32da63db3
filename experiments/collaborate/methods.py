"""The methods of peers as learners."""

import math
from collections.abc import Sequence
from typing import Any

import optax

from kdjax import methods, training

INDEPENDENT = "independent"
# Independent networks with all labels: the upper bound.
ALL_LABELS = "all_labels"
# Mutual learning whose peers move one after the other.
SEQUENTIAL = "mutual_sequential"
PEERS = tuple(
  name
  for name, row in methods.PRESETS.items()
  if row.area == "collaboration" and "peer_0" in row.networks
)
METHODS = tuple(
  name
  for preset in PEERS
  if preset != INDEPENDENT
  for name in ((preset, SEQUENTIAL) if preset == "mutual" else (preset,))
)
NAMES = {name: methods.PRESETS[name].title for name in PEERS} | {
  INDEPENDENT: "independent",
  SEQUENTIAL: "DML, sequential",
  ALL_LABELS: "independent, all labels",
}


def preset_of(name: str) -> str:
  """The row of `methods.PRESETS` that a method trains by."""
  return {SEQUENTIAL: "mutual", ALL_LABELS: INDEPENDENT}.get(name, name)


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  rows = {name: methods.PRESETS[preset_of(name)] for name in METHODS}
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
  preset, options = preset_of(name), {}
  if is_stale(name):
    options["burn_in"] = round(config.burn_in * config.steps)
  return training.collaborate(
    peers,
    methods.preset(
      preset,
      steps_per_epoch=math.ceil(labelled / config.batch_size),
      **options,
    ),
    optax.adam(config.learning_rate),
    update="sequential" if name == SEQUENTIAL else "simultaneous",
    stale=is_stale(name),
  )


def is_stale(name: str) -> bool:
  """Whether a method reads the peers of some steps before."""
  return "stale_0" in methods.PRESETS[preset_of(name)].networks
