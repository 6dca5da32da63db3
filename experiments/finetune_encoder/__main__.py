"""Fine-tunes real sentence encoders on a few labeled sentences.

The task: which document a sentence is of. A new head and the pretrained
encoder, MiniLM-L6 of the extra `real` or a local folder of `transformers`, are
trained on a few labels of each class by each method; candidates are chosen on
validation sentences. A second part asks `rank_teachers` which pretrained
encoder to take: the whole one, its cuts, a published smaller one, static
embeddings or random weights; and compares its scores with the accuracy after
fine-tuning.

  python -m experiments.finetune_encoder
  python -m experiments.finetune_encoder --shots 2 --methods l2_sp bss
  python -m experiments.finetune_encoder --encoder FOLDER --text FOLDER \
    --teachers cut_2 random
  python -m experiments.finetune_encoder --encoder tiny --teachers cut_1 random
"""

from dataclasses import dataclass
from typing import Annotated, Any

from experiments.finetune_encoder import data as cell_data
from experiments.finetune_encoder import teachers, training
from experiments.finetune_encoder.report import write
from experiments.frame import commands, jobs, tables


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to fine-tune a sentence encoder on few labels."""

  workdir: str = "runs/finetune_encoder"
  # folder of an encoder, with config.json, safetensors and tokenizer.json; or
  # tiny, random weights without any package, to try the command
  encoder: Annotated[
    str | None, commands.optional("MiniLM-L6 of the extra real", "FOLDER")
  ] = None
  # text files, or folders of them; each file is a document. Without any: the
  # topics of Python's help and the docstrings of its library
  text: tuple[str, ...] = ()
  # the methods that are compared with target-only, prototypes, a linear probe
  # and plain fine-tuning; help: print them. MAML and ANIL, whose gradients are
  # of second order, run where they are named
  methods: tuple[str, ...] = training.DEFAULTS
  # the other encoders that are ranked with the whole one: its first and last
  # layers and some between (cut_N), the published one of three layers, the
  # static embeddings of wordllama, random weights; none leaves that part out
  teachers: tuple[str, ...] = (
    "cut_4",
    "cut_3",
    "cut_2",
    "cut_1",
    "paraphrase",
    "static",
    "random",
  )
  classes: commands.Count = 8  # documents, of the source and of the target each
  shots: commands.Count = 4  # labeled sentences of a class
  examples: commands.Count = 24  # sentences of a class to draw these from
  validation_examples: commands.Count = 8  # labeled sentences that choose
  test_examples: commands.Count = 25  # test sentences of a class
  source_examples: commands.Count = 40  # sentences of a class of the source
  max_length: int = 16  # tokens of a sentence; the rest is cut off
  # the candidates for Adam's learning rate of the head, the usual one first;
  # plain fine-tuning chooses for all methods that have a weight to choose
  rates: commands.Rates = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)
  # of the other layers, as a share of that; target-only also tries a share of 1
  body_rate: commands.Rate = 0.1
  seeds: commands.Count = 5  # students of each method
  steps: commands.Count = 8  # updates in fine-tuning
  batch_size: commands.Count = 16  # labeled sentences in an update
  probe_steps: commands.Count = 200  # updates of a head on frozen embeddings
  meta_steps: commands.Count = 8  # updates in meta-learning
  # steps from one checkpoint of meta-learning to the next
  evaluate_every: commands.Count = 4
  tasks: commands.Count = 1  # the number of tasks in a batch in meta-learning
  inner_steps: commands.Count = 2  # steps of meta-learning's inner loop
  inner_rate: commands.Rate = 0.03  # the learning rate of the inner loop
  meta_rate: commands.Rate = 1e-4  # Adam's in meta-learning


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.check(config)
  commands.expect_multiple(config, "meta_steps", "evaluate_every")
  commands.expect_some(config, "methods", training.CHOICES)
  commands.expect(config, "max_length", config.max_length >= 3, "3 or more")
  commands.expect(config, "classes", config.classes >= 2, "2 or more")
  met = config.shots <= config.examples
  commands.expect(
    config, "shots", met, f"at most examples, which is {config.examples}"
  )
  met = config.batch_size <= config.shots * config.classes
  labels = config.shots * config.classes
  commands.expect(
    config, "batch_size", met, f"at most {labels}, the labels of a seed"
  )
  if config.teachers:
    cuts = [f"cut_{i}" for i in range(1, 100)]
    other = [x for x in config.teachers if x not in cuts]
    kinds = ("paraphrase", "static", "random")
    met = set(other) <= set(kinds)
    met = met and len(set(config.teachers)) == len(config.teachers)
    commands.expect(
      config,
      "teachers",
      met,
      f"different ones of cut_N, {', '.join(kinds)}",
    )


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  data = cell_data.load_data(config)
  found = teachers.load_encoders(config, data)
  return jobs.open_run(config, (data, found), free=("methods", "teachers"))


def execute(setup: jobs.Setup) -> dict[str, Any]:
  """Trains, ranks and writes the report; returns the results."""
  data, found = setup.data
  bench = training.Bench(setup.config, setup.run, setup.console, data, found)
  results = training.run(bench)
  write(bench, results)
  return results


if __name__ == "__main__":
  commands.launch(
    Config, prepare, execute, lambda: tables.describe(training.CHOICES)
  )
