"""Adapts a student from labeled source to unlabeled target images.

For each method all weights and seeds are trained in one vmapped program. Seed
i has the same initial weights and the same batches under every method, so that
a gain over source-only is a paired difference. The weight of a method is
chosen by a rule that sees no target label, and by the last step, not the best;
the choice of an oracle with target labels is reported beside it.

  python -m experiments.adapt
  python -m experiments.adapt --shift invert --workdir runs/invert
  python -m experiments.adapt --methods all --weights 0.1 1 10
  python -m experiments.adapt --source mnist --target digits \
    --data_dir ~/tensorflow_datasets --workdir runs/mnist
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax

from experiments.adapt.choice import Row, examine
from experiments.adapt.data import load_data
from experiments.adapt.methods import CHOICES, GROUP_OF
from experiments.adapt.report import write
from experiments.adapt.training import network, start_job, train
from experiments.frame import commands, jobs, rules
from kdjax import methods as kmethods


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to adapt to a target domain without labels."""

  workdir: str = "runs/adapt"
  source: str = "digits"  # digits, or a data set that tfds has prepared
  # the same. If it is the source, each gets half of the images
  target: str = "digits"
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the change of the target's images; auto: rotate if source and target are one
  # data set, else none
  shift: Literal["auto", "none", "rotate", "invert", "blend_noise"] = "auto"
  degrees: float = 30.0  # the angle of the shift rotate
  strength: float = 0.5  # the strength of the shift blend_noise, from 0 to 1
  # side to which all images are resized; 0: the target's
  image_size: commands.Natural = 0
  # pixels cut off each side of larger images before resizing
  crop: commands.Natural = 4
  examples: commands.Count = 2000  # the most images of each data set and split
  # share of each domain's training images that is kept for the choice of the
  # weight and for d_H
  validation_fraction: commands.Share = 0.3
  network: str = "mlp"  # a name of kdjax.nets.create
  hidden: commands.Units = (128, 64)  # units of the hidden layers of an mlp
  discriminator: commands.Count = 100  # hidden units of the discriminator
  # whether both domains pass the network as one batch, and so share the
  # statistics of a batch normalization
  joint_forward: bool = True
  # the methods that are compared with source_only and target_only; all: every
  # method; help: print them
  methods: tuple[str, ...] = ("dann", "mmd", "coral", "jda")
  # the candidates for the weight of each method, as factors of the published
  # weight
  weights: commands.Rates = (0.01, 0.1, 1.0, 10.0)
  select: rules.Flag = "guarded"
  seeds: commands.Count = 8  # the number of students of each method and weight
  steps: int = 1000  # updates of each student
  evaluate_every: int = 50  # steps from one evaluation to the next
  batch_size: commands.Count = 64  # examples of each domain in a batch
  learning_rate: commands.Rate = 1e-3  # Adam's; it decays by a cosine


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_some(config, "methods", CHOICES, also="all, or ")
  met = 0 <= config.strength <= 1
  commands.expect(config, "strength", met, "a number from 0 to 1")
  met = abs(config.degrees) < float("inf")
  commands.expect(config, "degrees", met, "a finite number")


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  every = config.methods == ("all",)
  if every:
    config = dataclasses.replace(config, methods=CHOICES)
  if config.shift == "auto":
    shift = "rotate" if config.source == config.target else "none"
    config = dataclasses.replace(config, shift=shift)
  check(config)
  data = load_data(config)
  init = network(config, data).init
  if not jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)).state):
    methods = tuple(name for name in config.methods if name != "adabn")
    met = every or methods == config.methods
    expected = "none with adabn, as the network has no batch statistics"
    commands.expect(config, "methods", met, expected)
    config = dataclasses.replace(config, methods=methods)
  return jobs.open_run(config, data)


def execute(setup: jobs.Setup) -> dict[str, Row]:
  """Trains, chooses and writes the report; returns a row a method."""
  config = setup.config
  job = start_job(*setup)
  rows, first = {}, None
  for name in ("source_only", *config.methods, "target_only"):
    trained = train(name, job, first)
    first = first or trained
    rows[name] = examine(trained, config.select)
  write(job, rows)
  return rows


if __name__ == "__main__":
  rows = {name: kmethods.describe(name) for name in CHOICES}
  kinds = {k: (GROUP_OF[k], f"{x.title}: {x.summary}") for k, x in rows.items()}
  commands.launch(Config, prepare, execute, lambda: kinds)
