"""The table, the figures and the report of `experiments.distill`."""

from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from experiments.frame import plots, statistics, tables
from kdjax.distillation import softened_softmax

COLOURS = dict(teacher=plots.DARK, scratch=plots.RED, distilled=plots.BLUE)
GROUPS = tuple(COLOURS)


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the table."""
  temperature, alpha = results["cells"][results["chosen"]]
  accuracy = results["student_validation"][-1].mean(0)
  job.run.publish(
    job.console,
    f"Distillation on {job.config.dataset}",
    [
      results["gain"].sentence("Distillation"),
      f"T = {temperature:g} and alpha = {alpha:g} were chosen of "
      f"{len(accuracy) - 1} cells by their mean validation accuracy, "
      f"{accuracy[results['chosen']]:.2%} (scratch {accuracy[0]:.2%}).",
    ],
    make_table(job.config, results),
    "Mean ± standard deviation over the seeds of the students. The gain is "
    "distilled minus scratch. It holds for other seeds (weights, images and "
    "their order) with this teacher and these test images. "
    f"{statistics.LEGEND} Each row is a comparison of its own. The "
    "diagnostics are explained in docs/diagnostics.md.",
    setting(job, results),
    "## Figures",
    draw(job, results),
  )
  job.run.rewind("test", -1)
  row = {
    f"{group}_{name}": values
    for group in GROUPS
    for name, values in results["scores"][group].items()
  }
  job.run.log(stage="test", step=0, **row)


def make_table(config: Any, results: dict[str, Any]) -> tables.Table:
  """Scores and costs of the three groups."""
  kinds = {
    "accuracy": ("test accuracy, %", 100, 2),
    "missing": (f"accuracy on class {config.missing_digit}, %", 100, 2),
    "agreement": ("agreement with teacher, %", 100, 2),
    "kl": ("KL to the teacher, nats", 1, 3),
    "cka": ("CKA with the teacher", 1, 3),
    "entropy": ("entropy of the predictions, nats", 1, 3),
    "ece": ("calibration error (ECE), %", 100, 2),
    "nll": ("negative log-likelihood", 1, 3),
  }
  rows = []
  for kind, (label, scale, digits) in kinds.items():
    groups = [results["scores"][name].get(kind) for name in GROUPS]
    if groups[0] is None:
      continue
    form = {"scale": scale, "digits": digits}
    texts = [statistics.mean_std(values, **form) for values in groups]
    # No verdict: more of a diagnostic is not always better.
    gain = statistics.gain_of(groups[2], groups[1])
    if kind not in ("accuracy", "missing"):
      gain = gain._replace(p_value=None)
    rows.append([label, *texts, gain.cell(**form)])
  teacher, student = results["costs"]
  for label, kind, form in (
    ("parameters", "parameters", ",d"),
    (f"latency, batch of {config.batch_size}, ms", "latency", ".3f"),
    ("latency, an image of it, µs", "image_latency", ".2f"),
  ):
    same = format(student[kind], form)
    rows.append([label, format(teacher[kind], form), same, same, ""])
  return tables.Table(["", *GROUPS, "gain (95 % interval)"], rows)


def setting(job: Any, results: dict[str, Any]) -> str:
  """The images and the networks, in words."""
  config, data = job.config, job.data
  images = f"{data.transfer.shape[1]} of them"
  if config.examples_per_class:
    images += f", {config.examples_per_class} of each class, drawn by its seed"
  teacher, student = (f"{cost['parameters']:,}" for cost in results["costs"])
  missing = ""
  if config.missing_digit is not None:
    missing = f" No student ever sees an image of class {config.missing_digit}."
  return (
    "## The setting\n\n"
    f"The teacher ({config.teacher}, {teacher} parameters) was trained on "
    f"{len(data.train['label'])} labelled images. A student "
    f"({config.student}, {student} parameters) sees {images}, with their "
    f"labels.{missing} Seed i from scratch and seed i distilled share the "
    "initial weights and the images, their order and their shifts; the "
    f"distilled one also sees the teacher's logits, by the method "
    f"{config.method}.\n\n"
    f"The {len(data.validation['label'])} validation images chose the cell; no "
    f"network was trained on them. The {len(data.test['label'])} test images "
    "were used for the chosen cell alone."
  )


def draw(job: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  path = job.run.path
  learning_curves(path / "learning_curves.png", job.config, results)
  grid_map(path / "heat_map.png", results)
  reliability_diagram(path / "reliability.png", results)
  softened_targets(path / "targets.png", job, results)
  return {
    "learning_curves.png": "Mean validation accuracy over the seeds, in a band "
    "of one standard deviation.",
    "heat_map.png": "Validation accuracy at the end, mean over the seeds. The "
    "frame is the chosen cell; alpha = 0 is the same for every T.",
    "reliability.png": "Test images of all seeds in bins of confidence; bins "
    "of fewer than 10 images are left out above.",
    "targets.png": "Of the first seed's images that the teacher predicts "
    "correctly, the least certain one of some classes.",
  }


def learning_curves(
  path: plots.Path, config: Any, results: dict[str, Any]
) -> None:
  """Validation accuracy over the steps of training."""
  accuracy = results["student_validation"]  # [rounds, seeds, cells]
  teacher = float(results["teacher_validation"][-1])
  steps = config.evaluate_every * np.arange(1, len(accuracy) + 1)
  pairs = accuracy[..., [0, results["chosen"]]]
  gap = statistics.gain_of(pairs[-1, :, 1], pairs[-1, :, 0])
  points, others = abs(100 * gap.mean), "those from scratch"
  title = statistics.title(
    gap,
    f"Distilled students end {points:.1f} points above {others}",
    f"Distilled students end {points:.1f} points below {others}",
    f"Distilled students end no higher than {others}",
  )
  with plots.figure(path, title=title, width=6.8, height=4.4) as axes:
    axes.axhline(teacher, color=COLOURS["teacher"], ls="--", lw=1.5)
    for i, name in enumerate(("scratch", "distilled")):
      plots.band(axes, steps, pairs[..., i], name, COLOURS[name])
    late = pairs[len(steps) // 8 :]  # the first steps are far below
    top, bottom = max(float(late.max()), teacher), float(late.min())
    margin = 0.08 * max(top - bottom, 0.01)
    axes.set(xlabel="training step", ylabel="validation accuracy")
    ends = max(bottom - margin, 0.0), min(top + margin, 1.0)
    axes.set(xlim=(0, steps[-1]), ylim=ends)
    axes.yaxis.set_major_formatter(plots.percent)
    axes.xaxis.get_major_locator().set_params(integer=True)
    dashed = plots.line("teacher", COLOURS["teacher"], "--", 1.5)
    plots.legend(axes, [dashed, *axes.get_legend_handles_labels()[0]])


def grid_map(path: plots.Path, results: dict[str, Any]) -> None:
  """Accuracy of all cells of the grid, the chosen one framed."""
  means = results["student_validation"][-1].mean(0)
  temperatures, alphas = (
    list(dict.fromkeys(column)) for column in results["cells"][1:].T
  )
  temperature, alpha = results["cells"][results["chosen"]]
  # Students from scratch are the same for each temperature.
  values = means[1:].reshape(len(temperatures), len(alphas))
  values = np.insert(values, 0, means[0], axis=1)
  width, height = (
    max(2.2 + 0.95 * values.shape[1], 4.6),
    1.8 + 0.6 * len(values),
  )
  title = f"T = {temperature:g}, alpha = {alpha:g} distils best "
  title += "(validation accuracy, %)"
  with plots.figure(path, title=title, width=width, height=height) as axes:
    plots.heat_map(
      axes,
      values,
      rows=[f"{value:g}" for value in temperatures],
      columns=["0\nscratch", *(f"{value:g}" for value in alphas)],
      texts=[f"{100 * value:.1f}" for value in values.ravel()],
      cmap=plots.BLUES,
      origin="lower",
    )
    corner = alphas.index(alpha) + 0.5, temperatures.index(temperature) - 0.5
    style = {"fill": False, "edgecolor": plots.RED, "lw": 3, "zorder": 3}
    axes.add_patch(Rectangle(corner, 1, 1, clip_on=False, **style))
    axes.axvline(0.5, color="white", lw=6)
    axes.set(ylabel="temperature T", xlabel="alpha, the weight of the teacher")


def reliability_diagram(path: plots.Path, results: dict[str, Any]) -> None:
  """Accuracy at each confidence, and how often each confidence occurs."""
  errors = {name: results["scores"][name]["ece"] for name in COLOURS}
  excess = statistics.gain_of(errors["distilled"], errors["scratch"])
  title = statistics.title(  # more of an error is worse
    excess,
    "Distilled students are worse calibrated",
    "Distilled students are better calibrated",
    "Distilled students are calibrated no better",
  )
  size = {"width": 5.6, "height": 5.9}
  with plots.figure(path, title=title, rows=2, **size) as (top, bottom):
    top.get_gridspec().set_height_ratios((3.2, 1))
    top.plot((0, 1), (0, 1), color=plots.GREY, ls="--", lw=1.2)
    top.text(0.04, 0.09, "perfect", rotation=45, color="#737373", fontsize=9)
    for name, colour in COLOURS.items():
      confidence, accuracy, count = map(np.asarray, results["curves"][name])
      seen = count >= 10  # the rate of a handful of examples is noise
      label = f"{name} (ECE {errors[name].mean():.1%})"
      style = {"color": colour, "marker": "o", "ms": 4.5, "label": label}
      top.plot(confidence[seen], accuracy[seen], **style)
      edges = np.linspace(0, 1, len(count) + 1)
      bottom.stairs(count / count.sum(), edges, color=colour, lw=1.8)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.tick_params(labelbottom=False)
    plots.legend(top)
    bottom.set(xlabel="confidence", ylabel="share", xlim=(0, 1))
    bottom.set(yscale="log", ylim=(2e-3, 1.2), yticks=(0.01, 0.1, 1))
    bottom.yaxis.set_major_formatter(plots.percent)
    bottom.minorticks_off()
    top.figure.align_ylabels()


def softened_targets(
  path: plots.Path, job: Any, results: dict[str, Any]
) -> None:
  """Images beside the teacher's probabilities, with and without softening."""
  logits = results["target_logits"]
  places = job.data.transfer[0][: len(logits)]
  images, labels = (
    np.asarray(job.data.train[name])[places] for name in ("image", "label")
  )
  temperature = float(results["cells"][results["chosen"]][0])
  shown = most_telling(logits, labels, temperature)
  targets = {
    value: np.asarray(softened_softmax(logits, temperature=value))
    for value in sorted({1.0, temperature})
  }
  others = [
    f"{1 - rows[np.arange(len(rows)), labels].mean():.1%} at T = {value:g}"
    for value, rows in targets.items()
  ]
  count, classes = len(shown), logits.shape[-1]
  tints = (plots.FAINT, plots.DARK)[-len(targets) :]
  width = 0.8 / len(targets)
  size = {"width": 6.4, "height": 0.7 + 1.1 * count}
  title = f"The teacher gives other classes {', '.join(others)}"
  with plots.figure(path, title=title, rows=count, columns=2, **size) as grid:
    grid[0].get_gridspec().set_width_ratios((1, 5.2))
    for n, (picture, bars) in zip(shown, grid.reshape(count, 2), strict=True):
      picture.imshow(images[n].squeeze(), cmap="gray_r")
      picture.set(xticks=[], yticks=[])
      picture.spines[:].set_visible(False)
      for i, (tint, rows) in enumerate(
        zip(tints, targets.values(), strict=True)
      ):
        offset = (i - (len(targets) - 1) / 2) * width
        bars.bar(np.arange(classes) + offset, rows[n], width, color=tint)
      bars.set(ylim=(0, 1), yticks=(0, 0.5, 1), xlim=(-0.6, classes - 0.4))
      bars.yaxis.set_major_formatter(plots.percent)
      bars.grid(visible=False, axis="x")
      bars.set_xticks(range(classes), map(str, range(classes)))
      label = bars.get_xticklabels()[int(labels[n])]
      label.set(weight="bold", color=plots.INK)
    grid[-1].set_xlabel("class, the label in bold")
    names = (f"T = {value:g}" for value in targets)
    marks = map(plots.mark, names, tints)
    plots.legend(grid, list(marks))


def most_telling(
  logits: Any, labels: np.ndarray, temperature: float, count: int = 5
) -> np.ndarray:
  """Places of right but uncertain predictions, at most one of each class."""
  rows = np.asarray(softened_softmax(logits, temperature=temperature))
  certainty = rows.max(-1) + (rows.argmax(-1) != labels)
  order = np.argsort(certainty, kind="stable")
  _, first = np.unique(labels[order], return_index=True)
  return order[np.sort(first)[:count]]
