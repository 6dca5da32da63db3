"""The tables and the report of `experiments.continual`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.continual.methods import JOINT, SEQUENTIAL
from experiments.continual.networks import CHANNELS
from experiments.continual.plots import matrices
from experiments.continual.recipes import PUBLISHED, TASKS, recipe_of
from experiments.continual.training import Result, label_of, middle
from experiments.frame import statistics, tables
from kdjax import continual

Cell = tuple[str, int]
Results = dict[Cell, Result]
BASELINE, BOUND = (SEQUENTIAL, 0), (JOINT, 0)
FINE_TUNING = "fine-tuning"
TITLES = {
  "split": "Classes in turn",
  "permuted": "Permuted pixels",
  "rotated": "Turned images",
  "mnist_360": "Pairs of classes that turn",
}


def write(job: Any, results: Results) -> None:
  """Draws the figure, writes report.md and prints the tables."""
  config = job.config
  gains = gains_of(results)
  judged = {k: x for k, x in gains.items() if k != label_of(*BOUND)}
  names = {label: label for label in judged}
  title = statistics.headline(judged, names, FINE_TUNING)
  figure = matrices(job.run.path / "matrices.png", results, title=title)
  anchors = published_table(config, results)
  parts: list[Any] = []
  if anchors is not None:
    parts = ["## Beside the published accuracies", ANCHORS, anchors]
  job.run.publish(
    job.console,
    f"Continual learning: {TITLES[config.stream].lower()}, {config.dataset}, "
    f"{config.tasks} tasks",
    conclude(config, results),
    make_table(job, results),
    reading(job),
    figure,
    *parts,
    "## After an interruption",
    recovery_reading(config),
    recovery_table(config, results),
    "## The setting",
    setting(job),
    recipe_table(config, results),
  )


def gains_of(results: Results) -> dict[str, statistics.Gain]:
  """The gains over fine-tuning of the mean accuracy after the last task."""
  scores = {label_of(*cell): x.final for cell, x in results.items()}
  return statistics.compare_bounded(
    scores, label_of(*BASELINE), label_of(*BOUND)
  )


def metrics_of(
  matrix: np.ndarray, random: np.ndarray | None = None
) -> continual.ContinualMetrics:
  """The metrics of matrices `[tasks, tasks, seeds]`, `[seeds]` each."""
  rows = jnp.moveaxis(jnp.asarray(matrix, jnp.float32), -1, 0)
  if random is None:
    return jax.vmap(continual.continual_metrics)(rows)
  start = jnp.asarray(random, jnp.float32).T
  return jax.vmap(continual.continual_metrics)(rows, start)


def make_table(job: Any, results: Results) -> tables.Table:
  """Accuracies and metrics of all methods, in percent."""
  split, gains = job.data.is_split, gains_of(results)
  rows = []
  for cell, result in results.items():
    columns = [statistics.percent(result.final)]
    if split:
      columns.append(statistics.percent(result.task_il[-1].mean(0)))
    if len(result.class_il) == 1:
      columns += [""] * 3
    else:
      seen = metrics_of(result.class_il)
      own = metrics_of(result.task_il, result.random)
      # iCaRL has no means of classes to come.
      forward = own.forward_transfer
      known = forward is not None and cell[0] != "icarl"
      columns += [
        statistics.percent(np.asarray(seen.forgetting)),
        statistics.percent(np.asarray(own.backward_transfer)),
        statistics.percent(np.asarray(forward)) if known else "",
      ]
    label = label_of(*cell)
    gain = gains[label].cell() if label in gains else ""
    rows.append([label, *columns, gain])
  kinds = ["class-IL", "task-IL"] if split else ["accuracy"]
  transfers = ["forgetting", "backward transfer", "forward transfer"]
  header = ["", *kinds, *transfers, "gain over fine-tuning (95 % interval)"]
  return tables.Table(header, rows)


def reading(job: Any) -> str:
  """How the table is read."""
  kinds = (
    "Class-IL is the mean accuracy over tasks after the last one among the "
    "classes seen so far, task-IL that among the classes of each task. "
    "Forgetting and the gain are of class-IL, transfers of task-IL. "
    if job.data.is_split
    else "The accuracy is the mean over tasks after the last one. "
  )
  return (
    f"{statistics.over_seeds(job.config.seeds)}, in percent. "
    f"{kinds}Forgetting is the best accuracy before the last task minus the "
    "last one, forward transfer the accuracy on a task before it was learned "
    "minus that of initial weights. The number in brackets is the size of the "
    f"buffer. {statistics.LEGEND}"
  )


ANCHORS = (
  "The published accuracies are those of mammoth's README at the commit "
  "7ab9db9. The gap is this run's mean minus the published one, in points and "
  "in standard deviations over this run's seeds."
)


def anchors_of(
  config: Any, results: Results
) -> dict[tuple[Cell, int], tuple[np.ndarray, float]]:
  """The published accuracies of this run's rows: (cell, kind) -> a pair."""
  tasks = TASKS[config.stream]
  protocol = config.dataset, config.tasks, config.epochs, config.hidden
  protocol += (config.network,)
  if protocol != ("mnist", tasks, 1, (100, 100), "mlp"):
    return {}
  found = {}
  for cell, result in results.items():
    name, buffer = cell
    values = PUBLISHED[config.stream].get(name, {}).get(buffer, ())
    ours = result.final, result.task_il[-1].mean(0)
    for kind, value in enumerate(values):
      found[cell, kind] = ours[kind], value
  return found


def deviations(ours: np.ndarray, published: float) -> float:
  """The gap in standard deviations over seeds; infinite without spread."""
  spread = 100 * ours.std(ddof=1) if len(ours) > 1 else 0.0
  gap = 100 * ours.mean() - published
  return gap / spread if spread else float(np.copysign(np.inf, gap))


def published_table(config: Any, results: Results) -> tables.Table | None:
  """This run beside the published accuracies."""
  rows = []
  kinds = ("class-IL", "task-IL") if config.stream == "split" else ("",)
  for (cell, kind), (ours, value) in anchors_of(config, results).items():
    gap = 100 * ours.mean() - value
    rows.append(
      [
        label_of(*cell),
        kinds[kind],
        statistics.mean_std(ours, scale=100),
        f"{value:.2f}",
        f"{gap:+.2f}",
        f"{deviations(ours, value):+.1f}",
      ]
    )
  header = ["", "accuracy", "here", "published", "gap", "in deviations"]
  return tables.Table(header, rows) if rows else None


def recovery_reading(config: Any) -> str:
  """How the table of interruptions is read."""
  return (
    "The first task returns after the last one, for "
    f"{config.returning:.0%} of the steps that it had: accuracy on it and on "
    "the other tasks, before and after. A lost buffer is emptied after task "
    f"{middle(config.tasks)}, and the stream goes on: the mean accuracy after "
    "the last task and its difference from that of a stream without the loss, "
    "paired by seed, each interval for itself. All among the classes seen so "
    "far."
  )


def recovery_table(config: Any, results: Results) -> tables.Table:
  """Accuracies after a task has returned and after a buffer was lost."""
  rows = []
  for cell, result in results.items():
    if result.returned is None:
      continue
    last, again = result.class_il[-1], result.returned
    columns = [
      statistics.percent(x)
      for x in (last[0], again[0], last[1:].mean(0), again[1:].mean(0))
    ]
    if result.lost is None:
      columns += ["", ""]
    else:
      lost = result.lost.mean(0)
      # The table has no family of methods to correct over.
      change = statistics.gain_of(lost, result.final).cell()
      columns += [statistics.percent(lost), change.replace(" **+**", "")]
      columns[-1] = columns[-1].replace(" **-**", "")
    rows.append([label_of(*cell), *columns])
  header = [
    "",
    "first task",
    "first task, after",
    "other tasks",
    "other tasks, after",
    "buffer lost",
    "change (95 % interval)",
  ]
  return tables.Table(header, rows, "After an interruption")


def conclude(config: Any, results: Results) -> list[str]:
  """The findings, in words."""
  low, high = results[BASELINE].final, results[BOUND].final
  gains = gains_of(results)
  gains.pop(label_of(*BOUND))
  texts = [
    f"Fine-tuning ends at {low.mean():.1%}, joint training at "
    f"{high.mean():.1%}.",
    *statistics.findings(gains, {k: k for k in gains}, FINE_TUNING),
  ]
  costs = {
    label_of(*cell): 100 * (x.final - x.lost.mean(0)).mean()
    for cell, x in results.items()
    if x.lost is not None
  }
  if costs:
    names = sorted(costs, key=lambda name: costs[name])
    ends = names[:1] + names[1:][-1:]
    cost = " to ".join(f"{costs[name]:.1f} points ({name})" for name in ends)
    texts.append(
      f"A buffer lost after task {middle(config.tasks)} cost {cost}."
    )
  anchors = anchors_of(config, results)
  if anchors:
    near = [k for k, pair in anchors.items() if abs(deviations(*pair)) <= 2]
    far = [
      f"{label_of(*cell)} ({100 * ours.mean():.2f} here, {value:.2f} published)"
      for (cell, kind), (ours, value) in anchors.items()
      if (cell, kind) not in near
    ]
    others = f"; not those of {', '.join(far)}" if far else ""
    texts.append(
      f"{len(near)} of {len(anchors)} published accuracies lie within two "
      f"standard deviations{others}."
    )
  return texts


def setting(job: Any) -> str:
  """The stream and the students, in words."""
  config, stream = job.config, job.data
  kinds = {
    "split": "The classes of each task come in the order of their labels.",
    "permuted": "Each task has a permutation of the pixels, drawn once for all "
    "seeds.",
    "rotated": "Each task has an angle between 0 and 180 degrees, drawn once "
    "for all seeds; images are turned bilinearly.",
    "mnist_360": "Each class but the last comes with the one after it, three "
    "times around, and its images turn by 360 degrees over the stream, "
    "bilinearly; they are drawn once for all seeds, and come in one order. "
    "The test has images at all angles.",
  }
  hidden = "-".join(map(str, config.hidden))
  students = {
    "mlp": f"a perceptron of {hidden} units with Xavier's initial values",
    "convnet": f"a network of three convolutions ({CHANNELS} channels) and "
    f"{config.hidden[-1]} units",
  }
  return (
    f"{kinds[config.stream]} {len(stream.labels)} images of {config.dataset} "
    f"train and {len(stream.test_labels)} test; nothing is chosen by either. "
    f"Each student is {students[config.network]} and a head for all classes, "
    "trained by SGD without momentum for "
    f"{config.epochs} epoch{'s' if config.epochs > 1 else ''} a task. Joint "
    "training passes as often over all tasks at once, with the recipe of "
    "fine-tuning."
  )


def recipe_table(config: Any, results: Results) -> tables.Table:
  """The hyper-parameters of each row."""
  rows = []
  for cell in results:
    name, buffer = cell
    recipe = recipe_of(config, SEQUENTIAL if name == JOINT else name, buffer)
    others = dict(recipe.options)
    if recipe.weight_decay:
      others["weight decay"] = recipe.weight_decay
    if name == "si":
      others["damping"] = recipe.damping
    texts = ", ".join(f"{k} {x:g}" for k, x in others.items())
    if name == "er":
      texts = "one mean over the batch and the replayed"
    replay = str(recipe.replay or "")
    sizes = [f"{recipe.learning_rate:g}", str(recipe.batch_size), replay]
    rows.append([label_of(*cell), *sizes, texts or "of the method"])
  header = ["", "learning rate", "batch", "replayed", "weights"]
  return tables.Table(header, rows, shown=())
