"""Learns one task after the other and measures what is forgotten.

The streams of mammoth: the classes of a data set in turn (split), or all of its
classes again and again with other pixels (permuted) or at other angles
(rotated), or pairs of classes whose images turn (mnist_360). A student sees
each task once. Then it is tested on all of them, among all classes seen so far
(class-incremental) and among the classes of the task (task-incremental). Fine-
tuning is the lower bound and joint training the upper one. Seed i has the same
initial weights and order of images under every method. After the stream the
first task returns for a while, and from its middle on the stream is learned
again without what the buffer held.

  python -m experiments.continual
  python -m experiments.continual --dataset mnist --workdir runs/split_mnist \
    --data_dir ~/tensorflow_datasets
  python -m experiments.continual --stream permuted --dataset mnist \
    --methods er der_plus_plus --workdir runs/permuted_mnist
  python -m experiments.continual --network convnet \
    --methods podnet er der_plus_plus --workdir runs/convnet
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.continual.data import load_stream
from experiments.continual.methods import BUFFERED, FILLED, METHODS, SEQUENTIAL
from experiments.continual.recipes import RECIPES, TASKS, recipe_of
from experiments.continual.report import write
from experiments.continual.training import Result, train
from experiments.frame import commands, jobs, tables

MAPS = "podnet"  # the method that needs a network with maps


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to learn one task after the other."""

  workdir: str = "runs/continual"
  # kind of tasks
  stream: Literal["split", "permuted", "rotated", "mnist_360"] = "split"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the number of tasks
  tasks: Annotated[
    int | None, commands.optional("those of mammoth; 5 of digits")
  ] = None
  # the methods that are compared; help: print them. Fine-tuning and joint
  # training are always there. A run may be resumed with other methods
  methods: Annotated[
    tuple[str, ...] | None,
    commands.optional("all that the stream suits but podnet", "STR ..."),
  ] = None
  # sizes of the buffers of the methods that replay
  buffers: Annotated[
    tuple[int, ...] | None,
    commands.optional("those of mammoth; 50 of digits", "INT ..."),
  ] = None
  # passes over the images of each task
  epochs: Annotated[int | None, commands.optional("1, of digits 20")] = None
  # mammoth's perceptron, or three convolutions and the last of the hidden
  # layers
  network: Literal["mlp", "convnet"] = "mlp"
  hidden: tuple[int, ...] = (100, 100)  # units of the hidden layers
  seeds: int = 5  # the number of students of each method, trained together
  # the part of its training for which the first task returns after the last
  returning: float = 0.1


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.expect_positive(config, "tasks", "epochs", "seeds", "buffers")
  commands.expect(
    config, "hidden", all(size > 0 for size in config.hidden), "sizes above 0"
  )
  commands.expect(config, "tasks", (config.tasks or 0) > 1, "2 or more")
  commands.expect(
    config, "returning", 0 < config.returning <= 1, "above 0, up to 1"
  )
  valid = [name for name in METHODS if name in RECIPES[config.stream]]
  commands.expect_some(config, "methods", valid)
  if MAPS in (config.methods or ()) and config.network == "mlp":
    raise ValueError(
      f"methods has {MAPS}, which compares maps, and network is mlp, which has "
      "none; expected --network convnet."
    )


def check_buffers(config: Config, classes: int) -> None:
  """Raises ValueError if a buffer has fewer examples than a step replays."""
  for name in BUFFERED:
    if name not in (config.methods or ()):
      continue
    for size in config.buffers or ():
      least, use = recipe_of(config, name, size).replay, "a step replays"
      if name in FILLED and classes > least:
        least, use = classes, "there are classes"
      if name == "bic" and 2 * classes > least:
        least, use = 2 * classes, "two of each class"
      if size < least:
        raise ValueError(
          f"buffers has {size}; expected at least {least} examples, as many as "
          f"{use} under {name}."
        )


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  small, turning = config.dataset == "digits", config.stream == "mnist_360"
  rows = RECIPES[config.stream]
  suited = tuple(x for x in METHODS if x in rows and x != MAPS)
  defaults: dict[str, Any] = {
    "tasks": 5 if small and not turning else TASKS[config.stream],
    "methods": suited,
    "buffers": (50,) if small else (200, 500, *[1000] * turning),
    "epochs": 20 if small else 1,
  }
  missing = {k: v for k, v in defaults.items() if getattr(config, k) is None}
  config = dataclasses.replace(config, **missing)
  check(config)
  check_buffers(config, 0)
  stream = load_stream(config)
  check_buffers(config, stream.num_classes)
  return jobs.open_run(config, stream, free=("methods",))


def execute(setup: jobs.Setup) -> dict[tuple[str, int], Result]:
  """Trains and writes the report; returns a result a method and buffer."""
  results = train(setup)
  write(setup, results)
  return results


if __name__ == "__main__":
  names = (SEQUENTIAL, *METHODS)
  commands.launch(Config, prepare, execute, lambda: tables.describe(names))
