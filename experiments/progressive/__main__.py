"""Trains small students of a large teacher, directly and step by step.

The smaller a student, the larger the gap to its teacher. Students of several
widths learn directly from the teacher (KD), through teacher assistants (TAKD)
along chains that are chosen on validation images, from all of them at once
(DGKD), from a teacher that is flat at first (annealing KD), from checkpoints
along the teacher's path (RCO), stage by stage with freezing, and as parts of a
network as wide as the teacher (progressive shrinking). Student i starts from
the same weights and sees the same batches under every method.

  python -m experiments.progressive
  python -m experiments.progressive --dataset fashion_mnist \
    --data_dir ~/tensorflow_datasets --workdir runs/progressive_fashion
"""

from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console

from experiments.frame import commands, folders, jobs
from experiments.progressive import methods
from experiments.progressive.data import Data, load_data
from experiments.progressive.report import write
from experiments.progressive.training import Results, train


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways over a gap of capacity between teacher and student."""

  workdir: str = "runs/progressive"
  dataset: str = "digits"  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # training images that choose the chains of assistants, and train nothing
  validation_examples: commands.Count = 198
  # training images of each class; 0: all that are left
  examples_per_class: commands.Natural = 0
  teacher: commands.Count = 128  # units of each of its two hidden layers
  assistants: commands.Counts = (64, 32)  # the same of the candidates
  students: commands.Counts = (16, 8, 4)  # the same of the students
  # the methods that are compared with the student from scratch; help: print
  # them. A run may be resumed with other methods
  methods: tuple[str, ...] = tuple(methods.METHODS)
  num_assistants: commands.Count = 1  # of the chain of evenly spaced accuracies
  anchors: commands.Count = 4  # checkpoints of the teacher's path (RCO)
  seeds: commands.Count = 5  # repetitions of all training
  steps: int = 1000  # updates of each network
  evaluate_every: int = 250  # steps from one evaluation to the next
  batch_size: commands.Count = 64  # the number of examples in a batch
  learning_rate: commands.Rate = 1e-3  # Adam's learning rate


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_some(config, "methods", methods.METHODS)
  rounds = config.steps // config.evaluate_every
  commands.expect(
    config,
    "anchors",
    rounds % config.anchors == 0,
    f"a divisor of the number of evaluations, which is {rounds}",
  )
  met = config.anchors >= 2 or "rco" not in config.methods
  commands.expect(config, "anchors", met, "2 or more, or methods without rco")
  commands.expect(
    config,
    "assistants",
    max(config.assistants) < config.teacher,
    f"numbers below teacher, which is {config.teacher}",
  )
  smallest = min(config.assistants)
  commands.expect(
    config,
    "students",
    max(config.students) < smallest,
    f"numbers below the smallest assistant, which is {smallest}",
  )
  count = len(config.assistants)
  commands.expect(
    config,
    "num_assistants",
    config.num_assistants <= count,
    f"at most {count}, the number of candidates",
  )


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data


def prepare(config: Config) -> Job:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  data = load_data(config)
  return Job(*jobs.open_run(config, data, free=("methods",)))


def execute(job: Job) -> Results:
  """Trains and writes the report; returns the scores of each method."""
  results = train(job)
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
