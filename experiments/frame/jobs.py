"""The inputs of a run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console

from experiments.frame import commands, folders, rounds
from kdjax import training


class Setup(NamedTuple):
  """The inputs of a run before any computation."""

  config: Any
  run: folders.RunFolder
  console: Console
  data: Any


class Job(NamedTuple):
  """The inputs of every part of a run, the same under every method."""

  config: Any
  run: folders.RunFolder
  console: Console
  data: Any
  forward: training.Forward
  variables: training.Variables  # initial ones, `[seeds, ...]`
  key: jax.Array  # for all else, `[seeds]`
  plan: Any = None  # of batches, `[seeds, steps, batch]`


def open_run(config: Any, data: Any, *, free: Sequence[str] = ()) -> Setup:
  """Makes the run folder, whose further flags in `free` may change later."""
  run = folders.RunFolder(config, free=free)
  return Setup(config, run, commands.console(), data)


def start(setup: Setup, network: training.Network) -> Job:
  """Draws the initial weights of each seed."""

  @jax.jit
  @jax.vmap
  def draw(key):
    init_key, key = jax.random.split(key)
    return network.init(init_key), key

  drawn = draw(rounds.seed_keys(setup.config))
  return Job(*setup, network.forward, *drawn)
