"""The tables, the figures and the report of `experiments.distill_audio`."""

from typing import Any

import numpy as np

from experiments.distill_audio import methods
from experiments.distill_audio.training import Row
from experiments.frame import plots, statistics, tables
from kdjax import methods as kmethods

BOUNDS = {"teacher": "teacher", "tiny": "tiny, published"}


def write(job: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the tables."""
  findings, parts = [], []
  for task, (conclude, explain) in TASKS.items():
    if task in results:
      found, table = conclude(job, results[task])
      findings += found
      parts += [f"## {task.capitalize()}", table, *explain(job, results[task])]
  job.run.publish(
    job.console,
    "Networks of sound, distilled",
    findings,
    *parts,
    f"{statistics.over_seeds(job.config.seeds)} (initial weights "
    f"and order). {statistics.LEGEND}",
  )


# Pitch.


def scores_of(found: dict[str, Any], name: str) -> np.ndarray:
  """A score of a row, `[seeds]`, or of a bound, `[1]`."""
  return np.array([x[name] for x in found["test"]])


def scratch_of(row: Row) -> Row:
  """The row that a row is compared with."""
  return Row(row.width, "random", "scratch")


def pitch_gains(results: dict[str, Any]) -> dict[str, statistics.Gain]:
  """The gains over the true pitch alone, at the same width."""
  rows = results["rows"]
  own = {row: scores_of(x, "accuracy") for row, x in rows.items()}
  others = [
    row for row in rows if scratch_of(row) in rows and row != scratch_of(row)
  ]
  return statistics.compare(
    {row.name: own[row] for row in others},
    {row.name: own[scratch_of(row)] for row in others},
  )


def conclude_pitch(
  job: Any, results: dict[str, Any]
) -> tuple[list[str], tables.Table]:
  """The findings and the table of pitch."""
  gains, percent = pitch_gains(results), statistics.percent
  every = {BOUNDS[k]: x for k, x in results["bounds"].items()}
  every |= {row.title: x for row, x in results["rows"].items()}
  titles = {row.name: row.title for row in results["rows"]}
  by_title = {titles[name]: gain for name, gain in gains.items()}
  columns = {
    "": str,
    "within 50 cents, %": lambda k: percent(scores_of(every[k], "accuracy")),
    "gain (95 % interval)": lambda k: statistics.cell(by_title, k),
    **{
      f"{kind}, %": lambda k, kind=kind: percent(scores_of(every[k], kind))
      for kind in job.kinds
    },
    "median cents": lambda k: statistics.mean_std(
      scores_of(every[k], "cents"), digits=1
    ),
    "parameters": lambda k: f"{every[k]['parameters'] / 1e6:.3f} M",
    "ms a frame": lambda k: f"{every[k]['milliseconds']:.1f}",
  }
  table = tables.of_rows(every, columns, shown=(0, 1, 2))
  findings = statistics.findings(gains, titles, "the true pitch alone")
  if "tiny" in results["bounds"]:
    mark = scores_of(results["bounds"]["tiny"], "accuracy")[0]
    passed = [
      row.title
      for row, x in results["rows"].items()
      if scores_of(x, "accuracy").mean() > mark
    ]
    findings.append(
      f"The published tiny has {mark:.1%}; above it on average: "
      f"{'; '.join(passed) or 'none'}."
    )
  return findings, table


def explain_pitch(job: Any, results: dict[str, Any]) -> list[Any]:
  """How to read the table, and the figure."""
  config = job.config
  teacher = "a CREPE that learned the true pitch here"
  if "crepe" in config.real:
    teacher = "the published CREPE (full)"
  text = (
    f"The teacher is {teacher}. {config.examples} frames of 64 ms train, "
    f"{config.validation_examples} show the progress, {config.test_examples} "
    "are tested; no instrument, timbre or vowel is in two of these. Kinds: "
    f"{', '.join(job.kinds)}. Within 50 cents: the raw pitch accuracy of "
    f"mir_eval. A student takes {config.steps} updates of {config.batch_size} "
    "frames. The gain is over the true pitch alone at the same width."
  )
  rates = {
    BOUNDS[name]: scores_of(x, "accuracy")
    for name, x in results["bounds"].items()
  }
  groups = dict.fromkeys(rates, "bounds")
  for row, x in results["rows"].items():
    rates[row.title] = scores_of(x, "accuracy")
    taught = "from a teacher" if row.method != "scratch" else "true pitch alone"
    groups[row.title] = taught
  reference = BOUNDS["tiny" if "tiny" in results["bounds"] else "teacher"]
  gains = pitch_gains(results)
  titles = {row.name: row.title for row in results["rows"]}
  plots.accuracy_bars(
    job.run.path / "pitch.png",
    rates,
    groups=groups,
    colours={
      "bounds": plots.DARK,
      "true pitch alone": plots.RED,
      "from a teacher": plots.BLUE,
    },
    oracles={},
    oracle_label="",
    reference=reference,
    title=statistics.headline(gains, titles, "the true pitch alone"),
    of="unseen sounds, 50 cents",
  )
  caption = "Raw pitch accuracy; dots are seeds, bars 95 % intervals."
  return [text, {"pitch.png": caption}]


# Words.


def title_of(method: str) -> str:
  """The name of a row of words."""
  return methods.TITLES.get(method, method)


def conclude_words(
  job: Any, results: dict[str, Any]
) -> tuple[list[str], tables.Table]:
  """The findings and the table of words."""
  percent = statistics.percent
  scores = {
    domain: {k: np.array(x["test"][domain]) for k, x in results.items()}
    for domain in ("source", "target")
  }
  gains = {
    domain: statistics.compare_bounded(
      {k: x for k, x in rates.items() if k != "teacher"},
      "source_only",
      "target_only",
    )
    for domain, rates in scores.items()
  }
  columns = {
    "": title_of,
    "unseen voices, %": lambda k: percent(scores["target"][k]),
    "gain (95 % interval)": lambda k: statistics.cell(gains["target"], k),
    "source voices, %": lambda k: percent(scores["source"][k]),
    "gain there": lambda k: statistics.cell(gains["source"], k),
    "parameters": lambda k: f"{results[k]['parameters']:,}",
  }
  table = tables.of_rows(results, columns, shown=(0, 1, 2, 3))
  own = {k: x for k, x in gains["target"].items() if k != "target_only"}
  target = scores["target"]
  findings = [
    f"Words of unseen voices: source-only {target['source_only'].mean():.1%}, "
    f"target-only {target['target_only'].mean():.1%}."
  ]
  findings += statistics.findings(own, methods.TITLES, "source-only")
  return findings, table


def explain_words(job: Any, results: dict[str, Any]) -> list[Any]:
  """How to read the table, and the figure."""
  config = job.config
  voices = "vocal tracts that are synthesized here"
  if "espeak" in config.real:
    voices = "espeak-ng (source: men; target: women with other accents)"
  text = (
    f"Words are of {voices}; {config.words} of each domain train, "
    f"{config.test_words} are tested. Target labels are seen by target-only "
    "alone. Weights are the published ones. Students are TC-ResNet8 of width "
    f"{config.word_width:g}, a teacher is a TC-ResNet14 of width 1.5 that "
    f"learned the source's labels; each takes {config.word_steps} updates of "
    f"{config.batch_size} words a domain. The gain is over source-only."
  )
  rates = {
    title_of(k): np.array(x["test"]["target"]) for k, x in results.items()
  }
  groups = {title_of(k): group_of(k) for k in results}
  gains = statistics.compare(
    {
      k: np.array(x["test"]["target"])
      for k, x in results.items()
      if k in config.word_methods
    },
    np.array(results["source_only"]["test"]["target"]),
  )
  plots.accuracy_bars(
    job.run.path / "words.png",
    rates,
    groups=groups,
    colours={
      "bounds": plots.DARK,
      "distillation": plots.ORANGE,
      "adaptation": plots.BLUE,
    },
    oracles={},
    oracle_label="",
    reference=title_of("source_only"),
    title=statistics.headline(gains, methods.TITLES, "source-only"),
    of="words of unseen voices",
  )
  caption = "Accuracy on unseen voices; dots are seeds, bars 95 % intervals."
  return [text, {"words.png": caption}]


def group_of(method: str) -> str:
  """The color of a row."""
  if method in (*methods.BOUNDS, "teacher"):
    return "bounds"
  return kmethods.describe(method).area


TASKS = {
  "pitch": (conclude_pitch, explain_pitch),
  "words": (conclude_words, explain_words),
}
