"""The table, the figure and the report of `experiments.progressive`."""

from typing import Any

import numpy as np

from experiments.frame import plots, statistics, tables
from experiments.progressive import methods
from experiments.progressive.methods import DIRECT, NAMES, SCRATCH, TEACHER

COLOURS = dict(
  zip(
    (SCRATCH, TEACHER, *methods.METHODS),
    (plots.INK, plots.GREY, *plots.SERIES, plots.BROWN),
    strict=True,
  )
)
MARKERS = dict(zip(COLOURS, "o_s^vDP*Xph", strict=True))


def write(job: Any, results: Any) -> None:
  """Draws the figure, writes report.md and prints the table."""
  config = job.config
  job.run.publish(
    job.console,
    f"Students of a teacher of {config.teacher} units on {config.dataset}",
    conclude(job, results),
    make_table(job, results),
    READING,
    setting(job, results),
    draw(job, results),
  )


def widths_of(job: Any) -> list[int]:
  """The widths of the students, from large to small."""
  return sorted(job.config.students, reverse=True)


def baseline_of(results: Any) -> str:
  """The baseline of the methods: direct KD, if it was trained."""
  return DIRECT if DIRECT in results.accuracy else SCRATCH


def gains_of(results: Any, place: int) -> dict[str, statistics.Gain]:
  """The gains over the baseline, of the student at a place."""
  scores = {k: x[place] for k, x in results.accuracy.items()}
  base = baseline_of(results)
  others = {k: x for k, x in scores.items() if k not in (base, TEACHER)}
  return statistics.compare(others, scores[base])


def make_table(job: Any, results: Any) -> tables.Table:
  """A row for each method, two columns for each student."""
  columns = {"": lambda name: NAMES[name]}
  base = NAMES[baseline_of(results)]
  for i, width in enumerate(widths_of(job)):
    gains = gains_of(results, i)
    columns[f"{width} units, %"] = lambda name, i=i: statistics.percent(
      results.accuracy[name][i]
    )
    columns[f"{width} units: gain over {base}"] = lambda name, gains=gains: (
      statistics.cell(gains, name)
    )
  shown = (0, *range(1, len(columns), 2), len(columns) - 1)
  return tables.of_rows(results.accuracy, columns, shown=shown)


READING = (
  "Mean ± standard deviation over seeds, in percent of test images after the "
  "last step, for students of so many units in each of two hidden layers. "
  f"The header names what a gain is over. {statistics.LEGEND} The "
  "correction is over the methods of one student. The teacher is an upper "
  "bound."
)


def chain_text(chain: tuple[int, ...]) -> str:
  """A chain in words, such as "256 > 64 > 8"."""
  return " > ".join(map(str, chain))


def conclude(job: Any, results: Any) -> list[str]:
  """The findings, in words."""
  teacher = results.accuracy[TEACHER][0].mean()
  texts = []
  base = baseline_of(results)
  for i, width in enumerate(widths_of(job)):
    scratch = results.accuracy[SCRATCH][i]
    text = (
      f"{width} units: from scratch {scratch.mean():.1%}, "
      f"{100 * (teacher - scratch.mean()):.1f} points below the teacher. "
    )
    found = statistics.findings(gains_of(results, i), NAMES, NAMES[base])
    texts.append(text + " ".join(found))
  for method, chains in results.chains.items():
    if method != DIRECT:
      ways = "; ".join(map(chain_text, chains))
      texts.append(f"Chains of {NAMES[method]}: {ways}.")
  if "takd" in results.accuracy and base == DIRECT:
    lead = results.accuracy["takd"] - results.accuracy[DIRECT]
    sizes = ", ".join(
      f"{100 * x.mean():+.1f} ({width} units)"
      for width, x in zip(widths_of(job), lead, strict=True)
    )
    texts.append(
      f"An assistant between teacher and student was worth {sizes} points over "
      "direct KD."
    )
  return texts


def setting(job: Any, results: Any) -> str:
  """The images and the training, in words."""
  config, data = job.config, job.data
  alone = ", ".join(f"{k}: {x:.1%}" for k, x in results.alone.items())
  ways = {
    "takd": f"Even accuracies have {config.num_assistants} between teacher and "
    "student; an assistant costs a training of its own.",
    "takd_search": "The search costs a training for each pair.",
    "rco": f"RCO has {config.anchors} checkpoints of the teacher's path.",
    "sandwich": "Progressive shrinking trains one network as wide as the "
    "teacher, without it, and cuts the students out.",
  }
  notes = "".join(f"{x} " for k, x in ways.items() if k in config.methods)
  used = sorted({methods.METHODS[name] for name in config.methods})
  return (
    "## The setting\n\n"
    f"Networks of two hidden layers took {config.steps} steps of Adam "
    f"(learning rate {config.learning_rate:g}) on batches of "
    f"{config.batch_size} of {len(data.train['label'])} images. Student i "
    "starts from the same weights and sees the same batches under every "
    "method, also as the student of an assistant. The weights are those of "
    f"`methods.create` of {', '.join(used)}; direct KD and every step of a "
    f"chain are trained by the row `takd`. {len(data.validation['label'])} "
    "validation images chose the chains, by means over seeds. Validation "
    f"accuracies of the networks from scratch, by units: {alone}. {notes}The "
    f"{len(data.test['label'])} test images chose nothing."
  )


def draw(job: Any, results: Any) -> dict[str, str]:
  """Saves the figure: accuracy and gain against the gap of capacity."""
  widths, base = widths_of(job), baseline_of(results)
  ratios = np.array([job.config.teacher / width for width in widths])
  smallest = len(widths) - 1
  title = statistics.headline(
    gains_of(results, smallest), NAMES, f"{NAMES[base]}, {widths[-1]} units"
  )
  path = job.run.path / "gap.png"
  with plots.figure(path, title=title, columns=2, width=10.0, height=5.0) as (
    left,
    right,
  ):
    for name, scores in results.accuracy.items():
      style = {"marker": MARKERS[name], "ms": 6.5, "lw": 1.5}
      if name == TEACHER:
        style = {"ls": "--", "lw": 1.5}
      left.plot(
        ratios, scores.mean(1), color=COLOURS[name], label=NAMES[name], **style
      )
      if name != TEACHER:
        gain = 100 * (scores - results.accuracy[base]).mean(1)
        right.plot(ratios, gain, color=COLOURS[name], **style)
    for axes in (left, right):
      axes.set_xscale("log", base=2)
      axes.set_xticks(ratios, [f"{x:g}" for x in ratios])
      axes.set_xlabel("units of the teacher for each of the student")
    left.set_ylabel("accuracy on test images")
    left.yaxis.set_major_formatter(plots.percent)
    right.set_ylabel(f"gain over {NAMES[base]}, points")
    plots.legend(left)
  caption = (
    "Left: accuracy on test images against the gap of capacity. Right: the "
    f"gain over {NAMES[base]}. Means over seeds."
  )
  return {path.name: caption}
