"""Trains ten clients that keep their data, and counts what they send.

Each class is dealt out to the clients by a Dirichlet distribution: at 0.1 a
client has few classes, at 1 it has most. All clients of all seeds are one
program, with padded and masked shards. Training on a client's own data is the
lower bound, training on all data in one place the upper one.

  python -m experiments.federate
  python -m experiments.federate --consensus probabilities \
    --weights confidence --methods fedmd feddf --workdir runs/confident
  python -m experiments.federate --dying_clients 3 --workdir runs/dying
"""

from dataclasses import dataclass
from typing import Literal

from experiments.federate import methods
from experiments.federate.data import load_data
from experiments.federate.report import write
from experiments.federate.training import Row, train
from experiments.frame import commands, jobs


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares what clients may send instead of their data."""

  workdir: str = "runs/federate"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the largest number of images of a split; 0 for all
  examples: commands.Natural = 0
  # the methods that are compared with FedAvg; help: print them. A run may be
  # resumed with other methods
  methods: tuple[str, ...] = methods.METHODS
  clients: int = 10  # the number of clients
  # of the Dirichlet distributions that deal out the classes; small: clients
  # differ
  concentrations: commands.Rates = (0.1, 1.0)
  # images that a client has at least; what has fewer is dealt again
  min_examples: commands.Count = 10
  public_examples: commands.Count = 300  # unlabeled images that no client has
  # clients of each round that die before they send, drawn by the seed
  dying_clients: int = 0
  # the average of predictions in the consensus of FedMD and FedDF
  consensus: Literal["logits", "probabilities"] = "logits"
  # the weights of clients in it
  weights: Literal["equal", "size", "confidence"] = "equal"
  # ratio of the noise in FedMD's consensus to clip, which hides each client;
  # 0: no noise and no clipping
  noise_multiplier: float = 0.0
  clip: commands.Rate = 10.0  # the largest norm of a client's public logits
  rounds: int = 60  # rounds of communication
  save_every: int = 10  # rounds from one checkpoint to the next
  # passes of a client over its data in a round
  local_epochs: commands.Count = 2
  # passes of a client over public data (FedMD)
  public_epochs: commands.Count = 2
  # updates of the server in a round (FedDF, FedGen, FedGKT)
  server_steps: commands.Count = 50
  batch_size: commands.Count = 16  # the number of examples in a batch
  learning_rate: commands.Rate = 0.1  # of the clients' gradient descent
  server_learning_rate: commands.Rate = 1e-3  # of the server's Adam
  hidden: commands.Units = (64,)  # units of the hidden layers
  # units of the hidden layers of FedKD's mentors and of FedGKT's server, which
  # are never sent
  mentor_hidden: commands.Units = (128, 128)
  # weight of the generator's loss in FedGen's clients; it decays by 0.98 a
  # round. Published: 10 at a learning rate of 0.01; their product is kept
  generator_weight: commands.Rate = 1.0
  goal: commands.Share = 0.9  # the accuracy whose rounds and bytes are reported
  seeds: commands.Count = 5  # repetitions, with another division of the data


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "rounds", "save_every")
  commands.expect_some(config, "methods", methods.METHODS)
  commands.expect(config, "clients", config.clients >= 2, "2 or more")
  met = 0 <= config.dying_clients < config.clients
  expected = f"0 to {config.clients - 1}, since one client must live"
  commands.expect(config, "dying_clients", met, expected)
  met = 0 <= config.noise_multiplier < float("inf")
  commands.expect(config, "noise_multiplier", met, "a number from 0 on")
  plain = (config.consensus, config.weights) == ("logits", "equal")
  met = plain or not config.noise_multiplier
  expected = "0, or --consensus logits and --weights equal"
  commands.expect(config, "noise_multiplier", met, expected)
  for name in ("hidden", "mentor_hidden"):
    met = bool(getattr(config, name))
    commands.expect(config, name, met, "one or more numbers above 0")


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  return jobs.open_run(config, load_data(config), free=("methods",))


def execute(job: jobs.Setup) -> dict[float, dict[str, Row]]:
  """Trains and writes the report; returns a row a concentration and method."""
  rows = train(job)
  write(job, rows)
  return rows


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
