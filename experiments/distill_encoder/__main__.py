"""Distills a sentence encoder into students of two and three layers.

The teacher is the real MiniLM-L6 (the package of the extra `real`), or any
encoder in a local folder of `transformers`. Students start from copies of some
of its layers or from random weights, read sentences of documents that Python
ships or of a user's files, and are judged on documents that none of them saw:
cosine with the teacher, nearest neighbors, order of similarities, and a
classification with few labels.

  python -m experiments.distill_encoder
  python -m experiments.distill_encoder --methods cosine --depths 3 \
    --starts copied --seeds 1 --steps 800 --workdir runs/long
  python -m experiments.distill_encoder --teacher FOLDER --text FOLDER
"""

import shutil
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from rich.console import Console

from experiments.distill_encoder import methods
from experiments.distill_encoder import training as cell_training
from experiments.distill_encoder.data import CLASSES, Data, load_data
from experiments.distill_encoder.report import write
from experiments.frame import cells, commands, encoders, folders, jobs, onnx
from kdjax import training


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares ways to distill a sentence encoder into a smaller one."""

  workdir: str = "runs/distill_encoder"
  # folder of an encoder, with config.json, safetensors and tokenizer.json
  teacher: Annotated[
    str | None, commands.optional("MiniLM-L6 of the extra real", "FOLDER")
  ] = None
  # text files, or folders of them; each file is a document. Without any: the
  # topics of Python's help and the docstrings of its library
  text: tuple[str, ...] = ()
  # further texts, which only train; packages: the docstrings of all installed
  # packages
  more_text: tuple[str, ...] = ()
  depths: tuple[int, ...] = (3, 2)  # blocks of the students
  # where students start: copied, from blocks of the teacher, or random
  starts: tuple[str, ...] = ("copied", "random")
  # what students learn from; help: print them. All are compared at the first
  # depth; the first one is the reference, and the one of the other depths
  methods: tuple[str, ...] = (
    "cosine",
    "l2",
    "rkd",
    "cross_modal_relations",
    "distilbert",
    "tinybert",
    "minilm_v2",
    "neighbors",
  )
  examples: int = 4000  # training sentences, at most
  validation_examples: int = 200  # sentences that show the progress
  test_examples: int = 600  # test sentences, at most
  max_length: int = 24  # tokens of a sentence; the rest is cut off
  shots: int = 5  # labeled sentences of a document, in the classification
  seeds: int = 3  # the number of students of each row
  steps: int = 100  # updates of a student
  evaluate_every: int = 25  # steps from one validation to the next
  batch_size: int = 32  # sentences in a batch
  learning_rate: float = 5e-4  # Adam's; warm-up and a cosine


def check(config: Config) -> None:
  """Raises ValueError for invalid flags."""
  commands.expect_positive(
    config,
    "depths",
    "examples",
    "validation_examples",
    "test_examples",
    "shots",
    "seeds",
    "batch_size",
    "learning_rate",
  )
  commands.expect(config, "max_length", config.max_length >= 3, "3 or more")
  commands.expect_multiple(config, "steps", "evaluate_every")
  commands.expect_some(config, "methods", methods.METHODS)
  commands.expect_some(config, "starts", ("copied", "random"))


def check_depths(config: Config, depth: int) -> None:
  """Raises ValueError for students that are no smaller than the teacher."""
  met = max(config.depths) < depth
  commands.expect(
    config, "depths", met, f"numbers below {depth}, the teacher's"
  )
  mapped = {"tinybert", "pkd"} & set(config.methods)
  met = not mapped or depth % config.depths[0] == 0
  commands.expect(
    config,
    "depths",
    met,
    f"a divisor of {depth}, the teacher's, first: {', '.join(sorted(mapped))} "
    "compares every k-th layer",
  )


class Job(NamedTuple):
  """The inputs of every part of the run."""

  config: Config
  run: folders.RunFolder
  console: Console
  data: Data
  teacher: cell_training.Teacher | None = None
  classes: int = CLASSES


def prepare(config: Config) -> jobs.Setup:
  """Checks the flags and reads the data; makes the run folder last."""
  check(config)
  data = load_data(config)
  check_depths(config, data.teacher.config.depth)
  return jobs.open_run(config, data, free=("methods", "starts"))


def execute(setup: jobs.Setup) -> dict[str, Any]:
  """Trains, examines and writes the report; returns the results."""
  config, run = setup.config, setup.run
  job = Job(*setup)
  setup.console.print(
    "computing the teacher's embeddings of all sentences", highlight=False
  )
  job = job._replace(teacher=cell_training.ask_teacher(job))
  files = cells.Cells(run.path)
  if not files.file("bounds").exists():
    files.write(judge_bounds(job), "bounds")
  results = {"bounds": files.read("bounds"), "rows": {}}
  courses: dict[Any, Any] = {}
  for row in cell_training.rows_of(config):
    if row.method == "cut":
      continue
    found = []
    for seed in range(config.seeds):
      if not files.file(row.name, seed).exists():
        key = row.depth, row.method
        if key not in courses:
          # Programs of the methods before are not used again.
          courses = {key: cell_training.make_course(job, *key)}
        cell = cell_training.train_cell(job, courses[key], row, seed)
        files.write(cell, row.name, seed)
        folder = run.path / "checkpoints" / f"{row.name}_{seed}"
        shutil.rmtree(folder, ignore_errors=True)
      found.append(files.read(row.name, seed))
    results["rows"][row] = found
  write(job, results)
  return results


def judge_bounds(job: Job) -> dict[str, Any]:
  """The networks that nothing trains: teacher, cut students, published one."""
  config, data = job.config, job.data
  found = {"teacher": bound_of(job, data.whole, data.teacher)}
  for depth in config.depths:
    whole, few = (encoders.cut(x, depth) for x in (data.whole, data.teacher))
    found[f"{depth}_copied_cut"] = bound_of(job, whole, few)
  file = onnx.find_published()
  if file is not None and config.teacher is None:
    published = onnx.read_published(file)
    few = encoders.with_tokens(published, data.known)
    found["published"] = bound_of(job, published, few)
  return found


def bound_of(job: Job, whole: Any, few: Any) -> dict[str, Any]:
  """Scores and costs of a network that is not trained."""
  network = encoders.make_network(few, few.config.depth)
  variables = training.from_nnx(few).variables
  return {
    "test": cell_training.judge(job, encoders.make_embed(network), variables),
    "cost": cell_training.cost_of(whole, job.config.max_length),
  }


if __name__ == "__main__":
  commands.launch(Config, prepare, execute, methods.describe)
