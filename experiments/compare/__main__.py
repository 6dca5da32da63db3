"""Compares distillation methods on pairs of networks, with several seeds.

A cell is a method on a pair. Its students, one a seed, are trained in one
program, whole epochs on the device. Seed i has the same initial weights, the
same images in the same order and the same shifts under every method, so that a
gain over scratch, or over plain KD, is a paired difference. The weights of a
method are those that its authors published; nothing is chosen on test images.

A finished cell is a file in the run folder: run again with --resume, and with
other --methods or --pairs if you like, and it is not trained again. A cell
that was killed goes on from its last checkpoint, which a long cell writes every
few minutes; a short one starts again.

  python -m experiments.compare
  python -m experiments.compare --methods kd dkd crd --seeds 10
  python -m experiments.compare --recipe fashion --workdir runs/fashion
  python -m experiments.compare --recipe cifar100 --pairs same different \
    --dtype bfloat16 --workdir runs/cifar100
"""

import dataclasses
import os
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Literal

import jax

from experiments.compare.cells import run_cell
from experiments.compare.data import load_data
from experiments.compare.data import resize_held_out
from experiments.compare.job import Job
from experiments.compare.job import total_steps
from experiments.compare.methods import PAIRS
from experiments.compare.methods import make_network
from experiments.compare.methods import make_recipe
from experiments.compare.methods import method_names
from experiments.compare.report import write
from experiments.frame import commands
from experiments.frame import progress

# What each recipe says where a flag does not.
RECIPES: dict[str, dict[str, Any]] = {
  "digits": {
    "dataset": "digits",
    "pairs": ("resnet20:resnet8x0.5",),
    "assistant": "resnet8",
    "examples_per_class": 12,
    "validation_fraction": 0.25,
    "epochs": 100,
    "teacher_epochs": 30,
    "evaluate_every": 10,
    "shift": 1,
    "flip": False,
  },
  "fashion": {
    "dataset": "fashion_mnist",
    "pairs": ("resnet32x4:resnet8x4", "resnet32x4:shufflenetv2"),
    "assistant": "resnet14",
    "examples_per_class": 100,
    "validation_fraction": 0.1,
    "epochs": 120,
    "teacher_epochs": 30,
    "evaluate_every": 10,
    "shift": 4,
    "flip": True,
  },
  "cifar100": {
    "dataset": "cifar100",
    "pairs": ("same",),
    "assistant": "resnet20",
    "examples_per_class": 0,
    "validation_fraction": 0.0,
    "epochs": 240,
    "teacher_epochs": 240,
    "evaluate_every": 5,
    "shift": 4,
    "flip": True,
  },
  "function_matching": {
    "dataset": "cifar100",
    "pairs": ("imagenet-resnet50:imagenet-resnet18",),
    "assistant": "imagenet-resnet34",
    "methods": ("function_matching",),
    "examples_per_class": 0,
    "validation_fraction": 0.0,
    "epochs": 1200,
    "teacher_epochs": 1200,
    "evaluate_every": 10,
    "shift": 4,
    "flip": True,
  },
}


@dataclass(frozen=True)
class Config:
  """Compares methods on pairs of networks; writes one table.

  Attributes:
    workdir: the run folder, made if missing.
    resume: keep the cells in the run folder and train what is missing.
    recipe: the protocol, and what the flags are that are not given; cifar100:
      RepDistiller's, function_matching: big_vision's.
    variant: of function_matching: imagenet, or flowers, pet, food or sun with
      /fast, /medium or /long.
    methods: names of kdjax.objectives.PRESETS, and dot; all of them
      if none is given. scratch and kd are always there.
    pairs: teacher:student, names of kdjax.nets.create or, for small images,
      resnet8x0.5, deit-tiny-4 and deit-mini-2; or same and different, the pairs
      of RepDistiller's tables.
    assistant: the network between teacher and student, for takd.
    seeds: students in each cell.
    together: whether the seeds of a cell are vmapped or trained one after the
      other, which is the default on a CPU.
    workers: cells that are trained at the same time; by default one, and on a
      CPU one for each core, of which a cell uses little more than one.
    dataset: digits, or the name of a set that tfds has prepared.
    data_dir: where tfds keeps its prepared sets.
    image_size: images are first resized to so many pixels a side; 0: they keep
      their size.
    examples_per_class: images of each class that a student sees, drawn by its
      seed; 0: all that the teacher saw.
    validation_fraction: part of the training images that is held out; 0: none,
      and then the last epoch alone counts.
    epochs: of each student.
    teacher_epochs: of the teachers and the assistant.
    evaluate_every: epochs from one evaluation to the next.
    shift: of digits and fashion: images are shifted by up to so many pixels.
    flip: of digits and fashion: images are mirrored at random.
    dtype: what the networks compute in.
    checkpoint_seconds: how long a cell runs between two checkpoints.
    seed: of everything random.
  """

  workdir: str = "runs/compare"
  resume: bool = False
  recipe: Literal["digits", "fashion", "cifar100", "function_matching"] = (
    "digits"
  )
  variant: str = "imagenet"
  methods: tuple[str, ...] = ()
  pairs: tuple[str, ...] = ()
  assistant: str | None = None
  seeds: int = 5
  together: bool | None = None
  workers: int | None = None
  dataset: str | None = None
  data_dir: str | None = None
  image_size: int = 0
  examples_per_class: int | None = None
  validation_fraction: float | None = None
  epochs: int | None = None
  teacher_epochs: int | None = None
  evaluate_every: int | None = None
  shift: int | None = None
  flip: bool | None = None
  dtype: Literal["float32", "bfloat16"] = "float32"
  checkpoint_seconds: float = 120.0
  seed: int = 0


def resolve(flags: Config) -> Any:
  """Fills in what the recipe says, and spells out groups of names.

  Args:
    flags: the flags as they were given.

  Returns:
    The same with a value for each.

  Raises:
    ValueError: for flags that do not go together.
  """
  said = RECIPES[flags.recipe]
  known = method_names()
  changes = {
    name: value
    for name, value in said.items()
    if getattr(flags, name) in (None, ())
  }
  config: Any = dataclasses.replace(flags, **changes)
  methods = [m for item in config.methods for m in item.split(",")] or known
  # Scratch and plain KD are what the others are compared with.
  methods = tuple(dict.fromkeys(["scratch", "kd", *methods]))
  for method in methods:
    commands.expect(
      config, "methods", method in known, f"some of {', '.join(known)}"
    )
  pairs = [
    pair
    for item in config.pairs
    for name in item.split(",")
    for pair in PAIRS.get(name, (name,))
  ]
  for pair in pairs:
    met = len(pair.split(":")) == 2
    groups = ", ".join(PAIRS)
    commands.expect(config, "pairs", met, f"teacher:student, or {groups}")
  cpu = jax.default_backend() == "cpu"
  cores = len(os.sched_getaffinity(0)) if cpu else 1
  together, workers = config.together, config.workers
  config = dataclasses.replace(
    config,
    methods=methods,
    pairs=tuple(dict.fromkeys(pairs)),
    together=not cpu if together is None else together,
    workers=cores if workers is None else workers,
  )
  for name in ("epochs", "teacher_epochs"):
    commands.expect_multiple(config, name, "evaluate_every")
  for name in ("seeds", "workers"):
    commands.expect_positive(config, name)
  for name in ("examples_per_class", "image_size", "shift"):
    commands.expect(config, name, getattr(config, name) >= 0, "0 or more")
  met = 0 <= config.validation_fraction < 1
  commands.expect(
    config, "validation_fraction", met, "0 or more, and less than 1"
  )
  return config


def prepare(config: Config) -> Job:
  """Does all that fails if the user is mistaken; makes the run folder last."""
  settings = resolve(config)
  data = load_data(settings)
  names = [name for pair in settings.pairs for name in pair.split(":")]
  if "takd" in settings.methods:
    names.append(settings.assistant)
  for name in dict.fromkeys(names):
    recipe = make_recipe(
      settings, name, data, examples=data.examples, epochs=settings.epochs
    )
    make_network(name, data, recipe, settings.dtype)
  image = data.train["image"][:1]
  cropped = jax.eval_shape(recipe.augment, jax.random.key(0), image)
  data = resize_held_out(data, cropped.shape[1:3])
  free = ("checkpoint_seconds", "methods", "pairs", "together", "workers")
  console, run = commands.console(), commands.RunFolder(settings, free=free)
  return Job(settings, run, console, data)


def execute(job: Job) -> dict[str, Any]:
  """Trains the cells that are missing and writes the report.

  A cell that fails does not keep the others from being trained.

  Returns:
    Pair -> method -> what the cell's file holds.

  Raises:
    ExceptionGroup: after the report, if cells failed.
  """
  config = job.config
  errors: list[Exception] = []

  def attempt(pair: str, method: str) -> bool:
    try:
      teacher, student = pair.split(":")
      run_cell(job, teacher, student, method)
    except futures.CancelledError:
      return False
    except Exception as error:
      errors.append(error)
      job.failed[pair, method] = " ".join(str(error).split())
      job.console.print(f"{pair} {method} failed: {error!r}", markup=False)
      return False
    return True

  with progress.progress(job.console, "grid", total_steps(job)) as update:
    job.show = update
    for pair in config.pairs:
      # Scratch first: it makes the teacher, and may be one.
      first, *others = config.methods
      if not attempt(pair, first):
        continue
      with futures.ThreadPoolExecutor(config.workers) as pool:
        try:
          for cell in [pool.submit(attempt, pair, name) for name in others]:
            cell.result()
        except BaseException:  # interrupted
          job.stopped = True
          pool.shutdown(wait=False, cancel_futures=True)
          raise
  results = write(job)
  if errors:
    raise ExceptionGroup(f"{len(errors)} cells failed", errors)
  return results


def main(config: Config) -> dict[str, Any]:
  """Runs the comparison; raises where the command line would print a line."""
  return execute(prepare(config))


if __name__ == "__main__":
  execute(commands.set_up(prepare, commands.parse(Config)))
