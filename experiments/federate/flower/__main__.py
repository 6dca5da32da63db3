"""Runs the clients of `experiments.federate` as processes of Flower.

Each client is a SuperNode of Flower (extra `flower`), the server a ServerApp;
both call the functions that the simulation maps over its clients. The command
starts the processes on this machine, runs the rounds, and compares what the
server has after each round with the simulation, which is told who answered.

  python -m experiments.federate.flower
  python -m experiments.federate.flower --dying_clients 1 --timeout 30 \
    --workdir runs/flower_dying
"""

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from experiments.federate import __main__ as federate
from experiments.federate import data
from experiments.federate.flower import comparison, processes
from experiments.frame import cells, commands, jobs

METHODS = ("fedavg", "fedntd", "feddf", "fedmd")


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares processes of Flower with the simulation."""

  workdir: str = "runs/flower"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # the largest number of images of a split; 0 for all
  examples: commands.Natural = 0
  # the methods, of fedavg, fedntd, feddf and fedmd. A run may be resumed with
  # others
  methods: tuple[str, ...] = ("fedavg", "feddf", "fedmd")
  clients: int = 3  # the number of clients, each a process
  # of the Dirichlet distribution that deals out the classes
  concentration: commands.Rate = 1.0
  # images that a client has at least; what has fewer is dealt again
  min_examples: commands.Count = 10
  public_examples: commands.Count = 300  # unlabeled images that no client has
  # clients of each round whose process is killed before it sends, drawn by the
  # seed
  dying_clients: int = 0
  # the average of predictions in the consensus of FedMD and FedDF
  consensus: Literal["logits", "probabilities"] = "logits"
  # the weights of clients in it
  weights: Literal["equal", "size", "confidence"] = "equal"
  rounds: commands.Count = 3  # rounds of communication
  # passes of a client over its data in a round
  local_epochs: commands.Count = 2
  # passes of a client over public data (FedMD)
  public_epochs: commands.Count = 2
  server_steps: commands.Count = 50  # updates of FedDF's server in a round
  batch_size: commands.Count = 16  # the number of examples in a batch
  learning_rate: commands.Rate = 0.1  # of the clients' gradient descent
  server_learning_rate: commands.Rate = 1e-3  # of the server's Adam
  hidden: commands.Units = (64,)  # units of the hidden layers
  timeout: commands.Rate = 120.0  # seconds that a client has for an answer


def simulated(config: Config) -> federate.Config:
  """The flags of the simulation."""
  names = {x.name for x in dataclasses.fields(federate.Config)}
  shared: dict[str, Any] = {
    k: getattr(config, k)
    for k in names & {x.name for x in dataclasses.fields(config)}
  }
  free: dict[str, Any] = {
    "methods": federate.Config.methods,
    "save_every": 1,
    "seeds": 1,
  }
  concentrations = (config.concentration,)
  return federate.Config(**shared | free, concentrations=concentrations)


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and the package; makes the run folder last."""
  commands.check(config)
  commands.expect_some(config, "methods", METHODS)
  federate.check(simulated(config))
  if importlib.util.find_spec("flwr") is None:
    raise ValueError(
      "the package flwr is missing. Install the extra flower: pip install "
      '-e ".[experiments,flower]"'
    )
  images = data.load_data(simulated(config))
  return jobs.open_run(config, images, free=("methods", "timeout"))


def execute(job: jobs.Setup) -> dict[str, Any]:
  """Runs what is missing and writes the report; returns what was compared."""
  config = job.config
  done = cells.Cells(job.run.path)
  missing = [x for x in config.methods if not done.file("flower", x).exists()]
  if missing:
    folder = job.run.path / "flower"
    with processes.federation(folder.resolve(), config.clients) as made:
      names = [("flower", x) for x in missing]
      for (_, method), update in done.missing(job.console, names):
        flags = comparison.flags_of(simulated(config), method, config.timeout)
        results, ended = processes.run_app(made, method, flags)
        row = comparison.compare(flags, results, ended)
        done.write(row, "flower", method)
        update(1, f"{method}: {comparison.headline(row)}")
  rows = {x: done.read("flower", x) for x in config.methods}
  comparison.write(job, rows)
  return rows


if __name__ == "__main__":
  commands.launch(Config, prepare, execute)
