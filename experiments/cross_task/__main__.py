"""Learns classes with the help of teachers that know other classes.

Two tasks. *New classes*: a teacher of the first half of the classes helps a
student of the second half, of which a few images have labels (ReFilled: first
the teacher's comparisons of examples, then its class centers). *All classes*:
two teachers, each of one half, are amalgamated into one student of all classes,
without labels. Every student takes two stages of as many steps; student i
starts from the same weights under every method.

  python -m experiments.cross_task
  python -m experiments.cross_task --dataset mnist --examples_per_class 5 \
    --data_dir ~/tensorflow_datasets --workdir runs/cross_task_mnist
"""

from dataclasses import dataclass

from experiments.cross_task import methods
from experiments.cross_task.data import load_data
from experiments.cross_task.report import write
from experiments.cross_task.training import Results, train
from experiments.frame import commands, jobs


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to learn from teachers of other classes."""

  workdir: str = "runs/cross_task"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # labeled images of each class, drawn by the seed; teachers have all labels
  examples_per_class: commands.Count = 10
  # the methods that are compared with training from scratch; help: print them.
  # A run may be resumed with other methods
  methods: tuple[str, ...] = methods.METHODS
  hidden: commands.Units = (64, 64)  # units of the hidden layers
  seeds: commands.Count = 5  # repetitions of all training
  steps: int = 500  # updates of each of the two stages
  evaluate_every: int = 250  # steps from one checkpoint to the next
  batch_size: commands.Count = 50  # the number of examples in a batch
  learning_rate: commands.Rate = 1e-3  # Adam's learning rate


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_some(config, "methods", methods.METHODS)


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  return jobs.open_run(config, load_data(config), free=("methods",))


def execute(job: jobs.Setup) -> Results:
  """Trains and writes the report; returns the scores of each method."""
  results = train(job)
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
