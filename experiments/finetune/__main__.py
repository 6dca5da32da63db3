"""Pretrains on half of the classes and fine-tunes on a few labels of the rest.

Digits 0-4 are the source, 5-9 the target. Seed i has the same pretrained
network, the same few labels and the same new head under every method, so that
gains are paired differences. For each method all seeds, candidates of the
hyper-parameters and folds are trained in one vmapped program: a seed chooses
by cross-validation within its few labels; the choice of an oracle with many
target labels is reported beside it. A second part asks
`rank_teachers` which of several pretrained networks to take, and compares its
scores with the accuracy after fine-tuning.

  python -m experiments.finetune
  python -m experiments.finetune --shots 1 --workdir runs/one_shot
  python -m experiments.finetune --dataset mnist \
    --data_dir ~/tensorflow_datasets --workdir runs/finetune_mnist
"""

from dataclasses import dataclass
from typing import Any, Literal

from experiments.finetune.data import TEACHERS, load_data
from experiments.finetune.networks import make_network
from experiments.finetune.pretraining import meta_learn, pretrain
from experiments.finetune.report import write
from experiments.finetune.teachers import compare
from experiments.finetune.training import first_of, make_row
from experiments.frame import commands, jobs, tables
from experiments.frame.episodes import WAYS
from experiments.frame.finetuning import CHOICES, norm_of, with_baselines


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to fine-tune a pretrained network on few labels."""

  workdir: str = "runs/finetune"
  # digits, or the name of a data set that tfds has prepared. The first half of
  # its classes is the source, the second the target
  dataset: str = "digits"
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  examples: commands.Count = 4000  # the largest number of images of each split
  # share of the training images of each half that is kept for validation; the
  # target's is for the oracle alone
  validation_fraction: commands.Share = 0.3
  shots: commands.Count = 5  # labeled target images of each class
  # of the cross-validation within these images; at most one a shot. With one
  # shot no image can be held out, and the first candidate is taken
  folds: commands.Count = 5
  network: Literal["mlp", "convnet"] = "mlp"  # mlp or convnet
  hidden: commands.Units = (64, 32)  # units of the hidden layers of an mlp
  # the methods that are compared with target-only, prototypes, a linear probe
  # and plain fine-tuning; help: print them
  methods: tuple[str, ...] = CHOICES
  # the other pretraining tasks whose networks are ranked with that of the
  # source; none leaves that part out
  teachers: tuple[str, ...] = TEACHERS
  # the candidates for Adam's learning rate in fine-tuning, the usual one first;
  # it decays by a cosine
  rates: commands.Rates = (3e-3, 1e-2)
  seeds: commands.Count = 10  # students of each method and candidate
  pretrain_steps: int = 400  # updates in pretraining
  steps: int = 200  # updates in fine-tuning, each of all labeled images
  evaluate_every: int = 100  # steps from one evaluation to the next
  batch_size: commands.Count = 64  # examples in a batch in pretraining
  # Adam's in pretraining; it decays by a cosine
  learning_rate: commands.Rate = 3e-3
  tasks: commands.Count = 4  # the number of tasks in a batch in meta-learning
  inner_steps: commands.Count = 3  # steps of meta-learning's inner loop
  inner_rate: commands.Rate = 0.1  # the learning rate of the inner loop


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  for name in ("pretrain_steps", "steps"):
    commands.expect_multiple(config, name, "evaluate_every")
  commands.expect_some(config, "methods", CHOICES)
  if config.teachers:
    commands.expect_some(config, "teachers", TEACHERS)
  met = len(config.hidden) > 0
  commands.expect(config, "hidden", met, "one or more numbers above 0")


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  data = load_data(config)
  make_network(config, data)
  return jobs.open_run(config, data)


def execute(setup: jobs.Setup) -> dict[str, Any]:
  """Trains, examines and writes the report; returns the results."""
  config = setup.config
  methods = with_baselines(config.methods)
  by_norm = {
    norm: jobs.start(setup, make_network(config, setup.data, norm))
    for norm in dict.fromkeys(map(norm_of, methods))
  }
  job = by_norm["none"]
  teachers = pretrain("pretrain", job, config.teachers)
  starts = {"none": {"fresh": job.variables, "source": first_of(teachers)}}
  for way in WAYS:
    if way in config.methods:
      starts["none"][way] = meta_learn(way, job)
  if "batch" in by_norm:
    normed = by_norm["batch"]
    source = first_of(pretrain("pretrain_norm", normed, ()))
    starts["batch"] = {"fresh": normed.variables, "source": source}
    starts["stochastic"] = starts["batch"]
  rows = {}
  for method in methods:
    norm = norm_of(method)
    rows[method] = make_row(method, by_norm[norm], starts[norm])
  results: dict[str, Any] = {"rows": rows}
  if config.teachers:
    results["teachers"] = compare(job, teachers)
  write(job, results)
  return results


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, lambda: tables.describe(CHOICES))
