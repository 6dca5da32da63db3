"""Compares distillation methods on pairs of networks, with several seeds.

A cell is a method on a pair. Its students, one a seed, are trained in one
program, whole epochs on the device. Seed i has the same initial weights, the
same images in the same order and the same shifts under every method, so that a
gain over scratch, or over plain KD, is a paired difference. The weights of a
method are those that its authors published; nothing is chosen on test images.

With --resume, and with other --methods or --pairs if you like, a finished cell
is not trained again.

  python -m experiments.compare
  python -m experiments.compare --methods kd dkd crd --seeds 10
  python -m experiments.compare --recipe fashion --workdir runs/fashion
  python -m experiments.compare --recipe cifar100 --pairs same different \
    --dtype bfloat16 --workdir runs/cifar100
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax

from experiments.compare import methods
from experiments.compare.cells import run_cell
from experiments.compare.data import load_data, resize_held_out
from experiments.compare.job import Job, total_steps
from experiments.compare.report import write
from experiments.frame import commands, jobs, progress, tables
from kdjax import training

# Flags whose default is that of the recipe.
OF_RECIPE = "that of the recipe"
Name = Annotated[str | None, commands.optional(OF_RECIPE, "NAME")]
Pairs = Annotated[
  tuple[str, ...] | None, commands.optional(OF_RECIPE, "TEACHER:STUDENT ...")
]
Int = Annotated[int | None, commands.optional(OF_RECIPE)]
Share = Annotated[float | None, commands.optional(OF_RECIPE, "FLOAT")]
Switch = Annotated[bool | None, commands.optional(OF_RECIPE, "{True,False}")]
# The defaults that each recipe gives to flags.
_ALL_IMAGES = {"examples_per_class": 0, "validation_fraction": 0.0}
_LARGER = {"shift": 4, "flip": True}
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
  "fashion": _LARGER
  | {
    "dataset": "fashion_mnist",
    "pairs": ("resnet32x4:resnet8x4", "resnet32x4:shufflenetv2"),
    "assistant": "resnet14",
    "examples_per_class": 100,
    "validation_fraction": 0.1,
    "epochs": 120,
    "teacher_epochs": 30,
    "evaluate_every": 10,
  },
  "cifar100": _LARGER
  | _ALL_IMAGES
  | {
    "dataset": "cifar100",
    "pairs": ("same",),
    "assistant": "resnet20",
    "epochs": 240,
    "teacher_epochs": 240,
    "evaluate_every": 5,
  },
  "function_matching": _LARGER
  | _ALL_IMAGES
  | {
    "dataset": "cifar100",
    "pairs": ("imagenet-resnet50:imagenet-resnet18",),
    "assistant": "imagenet-resnet34",
    "methods": ("function_matching",),
    "epochs": 1200,
    "teacher_epochs": 1200,
    "evaluate_every": 10,
  },
}


@dataclass(frozen=True)
class Config(commands.Flags):
  """Compares methods on pairs of networks; writes one table."""

  workdir: str = "runs/compare"
  # the protocol, which gives the defaults of other flags; cifar100:
  # RepDistiller's, function_matching: big_vision's
  recipe: Literal["digits", "fashion", "cifar100", "function_matching"] = (
    "digits"
  )
  # the protocol of the recipe function_matching: imagenet, or flowers, pet,
  # food or sun with /fast, /medium or /long
  variant: str = "imagenet"
  # those of kdjax.methods.names("distillation"); help: print them. scratch and
  # kd are always compared
  methods: Annotated[
    tuple[str, ...] | None,
    commands.optional("all; of function_matching that one", "NAME ..."),
  ] = None
  # teacher:student, names of kdjax.nets.create or, for small images,
  # resnet8x0.5, deit-tiny-4 and deit-mini-2; or same and different, the pairs
  # of RepDistiller's tables
  pairs: Pairs = None
  assistant: Name = None  # the network between teacher and student, for takd
  seeds: commands.Count = 5  # the number of students in each cell
  # whether the seeds of a cell are vmapped or trained one after the other
  together: Annotated[
    bool | None,
    commands.optional("True, but False on a CPU", "{True,False}"),
  ] = None
  # the number of cells that are trained at the same time
  workers: Annotated[
    int | None, commands.optional("1, but one for each core of a CPU")
  ] = None
  dataset: Name = None  # digits, or a data set that tfds has prepared
  data_dir: commands.DataDir = None  # where tfds has prepared data sets
  # side to which images are resized; 0: they keep theirs
  image_size: commands.Natural = 0
  # images of each class that a student sees, drawn by its seed; 0: all images
  # that the teacher saw
  examples_per_class: Int = None
  # share of the training images that is held out; 0: none, and then the last
  # epoch alone counts
  validation_fraction: Share = None
  epochs: Int = None  # passes over its images of each student
  teacher_epochs: Int = None  # passes of the teachers and of the assistant
  evaluate_every: Int = None  # epochs from one evaluation to the next
  shift: Int = None  # largest shift in pixels (recipes digits, fashion)
  flip: Switch = None  # whether images are mirrored (recipes digits, fashion)
  # the number type of the networks' computation
  dtype: Literal["float32", "bfloat16"] = "float32"
  checkpoint_seconds: float = 120.0  # from one checkpoint of a cell to the next


def resolve(flags: Config) -> Any:
  """Fills in the flags of the recipe, and spells out groups of names."""
  changes = {
    name: value
    for name, value in RECIPES[flags.recipe].items()
    if getattr(flags, name) is None
  }
  config: Any = dataclasses.replace(flags, **changes)
  known = methods.method_names()
  given = known if config.methods is None else spell_out(config.methods)
  config = dataclasses.replace(config, methods=given)
  commands.expect_some(config, "methods", known)
  pairs = spell_out(config.pairs, methods.PAIRS)
  commands.expect(config, "pairs", len(pairs) > 0, "one or more pairs")
  met = all(pair.count(":") == 1 for pair in pairs)
  groups = f"teacher:student, or {', '.join(methods.PAIRS)}"
  commands.expect(config, "pairs", met, groups)
  cpu = jax.default_backend() == "cpu"
  cores = len(os.sched_getaffinity(0)) if cpu else 1
  together, workers = config.together, config.workers
  config = dataclasses.replace(
    config,
    # Scratch and plain KD are the baselines.
    methods=tuple(dict.fromkeys(("scratch", "kd", *given))),
    pairs=pairs,
    together=not cpu if together is None else together,
    workers=cores if workers is None else workers,
  )
  for name in ("epochs", "teacher_epochs"):
    commands.expect_multiple(config, name, "evaluate_every")
  commands.check(config)
  commands.expect_positive(config, "workers")
  commands.expect_at_least_zero(config, "examples_per_class", "shift")
  met = 0 <= config.validation_fraction < 1
  expected = "0 or more, and less than 1"
  commands.expect(config, "validation_fraction", met, expected)
  return config


def spell_out(
  values: Iterable[str], groups: Mapping[str, Iterable[str]] | None = None
) -> tuple[str, ...]:
  """The different names in lists with commas, those of a group in its place."""
  groups = groups or {}
  names = [name for value in values for name in value.split(",")]
  return tuple(dict.fromkeys(x for n in names for x in groups.get(n, (n,))))


def prepare(config: Config) -> Job:
  """Checks the flags and reads the data; makes the run folder last."""
  settings = resolve(config)
  data = load_data(settings)
  names = [name for pair in settings.pairs for name in pair.split(":")]
  names += [settings.assistant] if "takd" in settings.methods else []
  sizes = data.examples, settings.epochs
  recipes = {x: methods.make_recipe(settings, x, data, *sizes) for x in names}
  for name, recipe in recipes.items():
    methods.make_network(name, data, recipe, settings.dtype)
  augment, image = recipes[names[-1]].augment, data.train["image"][:1]
  cropped = jax.eval_shape(augment, jax.random.key(0), image)
  data = resize_held_out(data, cropped.shape[1:3])
  free = ("checkpoint_seconds", "methods", "pairs", "together", "workers")
  return Job(*jobs.open_run(settings, data, free=free))


def execute(job: Job) -> dict[str, Any]:
  """Trains the missing cells, whichever of them fail, and writes the report."""
  config = job.config
  errors: list[Exception] = []

  def attempt(pair: str, method: str) -> bool:
    if job.is_stopping:
      return False
    try:
      run_cell(job, pair, method)
      return True
    except futures.CancelledError:
      return False
    except Exception as error:
      errors.append(error)
      job.failed[pair, method] = " ".join(str(error).split())
      job.console.print(f"{pair} {method} failed: {error!r}", markup=False)
      return False

  with (
    commands.finishing() as job.interruption,
    progress.progress(job.console, "grid", total_steps(job)) as update,
  ):
    job.show = update
    for pair in config.pairs:
      # Scratch first: it makes the teacher, and may be one.
      first, *others = config.methods
      if not attempt(pair, first):
        continue
      pool = futures.ThreadPoolExecutor(config.workers)
      try:
        for cell in [pool.submit(attempt, pair, name) for name in others]:
          cell.result()
      except BaseException:  # interrupted
        job.stopped = True
        raise
      finally:
        pool.shutdown(wait=not job.stopped, cancel_futures=True)
    if job.is_stopping:
      job.interruption.stop("the cells under way are saved.")
  results = write(job)
  if errors and all(isinstance(x, training.RunError) for x in errors):
    raise SystemExit(1)  # all are named, and none is a bug
  if errors:
    raise ExceptionGroup(f"{len(errors)} cells failed", errors)
  return results


if __name__ == "__main__":
  kinds = tables.describe(methods.method_names())
  commands.launch(Config, prepare, execute, lambda: kinds)
