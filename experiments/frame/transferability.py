"""Scores that rank pretrained networks, and the accuracy that they promise."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from experiments.frame import plots, statistics, tables
from kdjax import selection

MARKERS = "osD^vP*X"  # of teachers
# Criterion -> its name and its input.
CRITERIA = {
  "leep": ("LEEP", "probabilities"),
  "nce": ("NCE", "predictions"),
  "logme": ("LogME", "embeddings"),
  "h_score": ("H-score", "embeddings"),
  "regularized_h_score": ("regularized H-score", "embeddings"),
  "transrate": ("TransRate", "embeddings"),
}
JUDGES = "few", "many"


class Teachers(NamedTuple):
  """The results of the teachers in the report."""

  names: tuple[str, ...]  # of the teachers
  # `[teachers, seeds]`, on test examples after fine-tuning.
  accuracy: np.ndarray
  # By criterion, with the few labels of a seed and with all labels of the
  # target's training examples: `[2, teachers, seeds]`; Kendall's tau and
  # Pearson's correlation of these scores and the accuracy, `[2, seeds]`; and
  # the accuracy of the teacher that is ranked first, `[2, seeds]`.
  scores: dict[str, np.ndarray]
  correlations: dict[str, np.ndarray]
  linear: dict[str, np.ndarray]
  picked: dict[str, np.ndarray]


def judge(
  names: tuple[str, ...],
  accuracy: np.ndarray,
  look: Callable[[str, int, str], np.ndarray],
  labels: np.ndarray,
  few: Sequence[np.ndarray] | np.ndarray,
  classes: int,
) -> Teachers:
  """Ranks teachers before fine-tuning, and compares with what it reached.

  `look(view, seed, name)` is a teacher's view of all examples, whose labels are
  given; a seed has the labels of its few.
  """
  shape = len(JUDGES), len(names), len(few)
  scores = {name: np.zeros(shape) for name in CRITERIA}
  picked = {name: np.zeros(shape[::2]) for name in CRITERIA}
  for criterion, (_, view) in CRITERIA.items():
    rule = compiled(criterion, classes)
    for seed, own in enumerate(few):
      for kind, places in enumerate((own, slice(None))):
        candidates = {name: look(view, seed, name)[places] for name in names}
        ranking = selection.rank_teachers(
          candidates, labels[places], criterion=rule
        )
        order = [names.index(name) for name in ranking.names]
        scores[criterion][kind, order, seed] = ranking.scores
        picked[criterion][kind, seed] = accuracy[order[0], seed]
  return Teachers(
    names,
    accuracy,
    scores,
    {name: correlate(x, accuracy) for name, x in scores.items()},
    {name: correlate(x, accuracy, linear=True) for name, x in scores.items()},
    picked,
  )


@functools.cache
def compiled(criterion: str, classes: int):
  """The criterion as one program: `rank_teachers` takes a function too."""
  options: dict[str, Any] = {"num_classes": classes}
  if criterion == "nce":
    options = {}
  if criterion == "regularized_h_score":
    criterion, options["covariance"] = "h_score", "ledoit-wolf"
  return jax.jit(functools.partial(getattr(selection, criterion), **options))


def correlate(
  scores: np.ndarray, accuracy: np.ndarray, *, linear: bool = False
) -> np.ndarray:
  """Kendall's tau over teachers, or Pearson's correlation, `[2, seeds]`.

  0 where all scores, or all accuracies, are alike; NaN where one is not finite.
  """

  def one(x: np.ndarray, y: np.ndarray) -> float:
    if not np.isfinite([x, y]).all():
      return np.nan
    if not (np.ptp(x) > 0 and np.ptp(y) > 0):
      return 0.0
    found: Any = stats.pearsonr(x, y) if linear else stats.kendalltau(x, y)
    return float(found.statistic)

  return np.array([list(map(one, x.T, accuracy.T)) for x in scores])


def teacher_table(teachers: Any) -> tables.Table:
  """The accuracy of fine-tuning from each teacher."""
  accuracy = dict(zip(teachers.names, teachers.accuracy, strict=True))
  first, *others = teachers.names
  gains = statistics.compare({x: accuracy[x] for x in others}, accuracy[first])
  columns = {
    "pretrained on": str,
    "accuracy, %": lambda name: statistics.percent(accuracy[name]),
    f"gain over {first}": lambda name: statistics.cell(gains, name),
  }
  return tables.of_rows(teachers.names, columns)


def criterion_table(teachers: Any) -> tables.Table:
  """The rank correlation of each criterion with that accuracy."""
  cells = [
    [
      title,
      *map(statistics.mean_std, teachers.correlations[name]),
      *map(statistics.mean_std, teachers.linear[name]),
      *map(statistics.percent, teachers.picked[name]),
    ]
    for name, (title, _) in CRITERIA.items()
  ]
  header = ["criterion", *(f"tau, {judge} labels" for judge in JUDGES)]
  header += [f"Pearson, {judge} labels" for judge in JUDGES]
  header += [f"its first, {judge} labels, %" for judge in JUDGES]
  return tables.Table(header, cells)


def conclude(teachers: Any) -> list[str]:
  """The findings on the ranking, in words."""
  means = teachers.accuracy.mean(1)
  best = int(means.argmax())
  findings = [
    f"The best teacher on average is {teachers.names[best]!r}, with "
    f"{means[best]:.1%}; a teacher taken at random gives {means.mean():.1%}, "
    f"the best of each seed {teachers.accuracy.max(0).mean():.1%}."
  ]
  for judge, judged in enumerate(JUDGES):
    taus = {name: x[judge] for name, x in teachers.correlations.items()}
    # A criterion that is NaN for some seed is not the best.
    first = max(taus, key=lambda x: np.nan_to_num(taus[x].mean(), nan=-np.inf))
    gains = statistics.compare(taus, np.zeros_like(taus[first]))
    helped = [CRITERIA[x][0] for x in taus if gains[x].verdict == "helped"]
    said = f"Clearly better than chance: {', '.join(helped) or 'none'}."
    if gains[first].verdict == "unknown":
      said = f"{statistics.TOO_FEW.capitalize()}."
    tau = gains[first]._replace(p_value=None).cell(scale=1, digits=2)
    findings.append(
      f"With {judged} labels {CRITERIA[first][0]} ranks best, tau {tau}; the "
      "teacher that it ranks first reaches "
      f"{teachers.picked[first][judge].mean():.1%}. {said}"
    )
  return findings


def score_scatter(path: plots.Path, teachers: Any) -> None:
  """Scores against the accuracy after fine-tuning, a panel for a criterion."""
  panels = {
    f"{title}\ntau {statistics.mean_std(teachers.correlations[name][0])}": (
      teachers.scores[name][0]
    )
    for name, (title, _) in CRITERIA.items()
  }
  title = conclude(teachers)[1].split(";")[0]
  rows = -(-len(panels) // 3)
  size = {"width": 9.0, "height": 1.6 + 2.5 * rows}
  looks = list(zip(plots.SERIES, MARKERS, strict=True))[: len(teachers.names)]
  with plots.figure(path, title=title, rows=rows, columns=3, **size) as grid:
    for axes, (name, values) in zip(grid, panels.items(), strict=True):
      for seeds, reached, (colour, marker) in zip(
        values, teachers.accuracy, looks, strict=True
      ):
        style = {"color": colour, "marker": marker, "ls": ""}
        axes.plot(seeds, reached, alpha=0.22, ms=4, mew=0, **style)
        axes.plot(seeds.mean(), reached.mean(), ms=8, mec="w", **style)
      axes.set_title(name, fontsize=9.5, weight="normal")
      axes.yaxis.set_major_formatter(plots.percent)
      axes.locator_params("x", nbins=4)
      axes.ticklabel_format(axis="x", useOffset=False)
    for axes in grid[-3:]:
      axes.set_xlabel("score before fine-tuning")
    for axes in grid[::3]:
      axes.set_ylabel("accuracy after")
    marks = [
      plots.mark(x, *look)
      for x, look in zip(teachers.names, looks, strict=True)
    ]
    plots.legend(grid, marks)
