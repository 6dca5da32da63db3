"""The table, the figure and the report of `experiments.collaborate`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.collaborate import methods
from experiments.collaborate.methods import ALL_LABELS, INDEPENDENT, NAMES
from experiments.frame import plots, statistics, tables

Rows = dict[str, dict[str, np.ndarray]]
# Peers are reported as nearly one network if their disagreement is below this
# share of the disagreement of independent networks.
COLLAPSE = 0.25
MARKERS = "os^vDP*Xph<>d"
COLOURS = dict(
  zip(
    (INDEPENDENT, *methods.METHODS, ALL_LABELS),
    (plots.INK, *plots.SERIES, plots.BROWN, plots.GREY, plots.GREY),
    strict=False,
  )
)


def write(job: Any, rows: Rows) -> None:
  """Draws the figure, writes report.md and prints the table."""
  config = job.config
  job.run.publish(
    job.console,
    f"{config.peers} peers on {config.examples_per_class} labels a class of "
    f"{config.dataset}",
    conclude(job, rows),
    make_table(job, rows),
    READING,
    setting(job),
    draw(job, rows),
  )


def peer_scores(
  seen: dict[str, np.ndarray], chosen: Callable[[int], bool] = lambda i: True
) -> np.ndarray:
  """Mean accuracies of peers `[rounds, seeds]`, of all or of some numbers."""
  parts = (name.removeprefix("peer_").split("/") for name in seen)
  numbers = [int(part[0]) for part in parts if part[0].isdigit()]
  return np.mean(
    [seen[f"peer_{i}/accuracy"] for i in numbers if chosen(i)], axis=0
  )


def finals(rows: Rows, score: str) -> dict[str, np.ndarray]:
  """A score after the last step, `[seeds]`: of the peers, or by its name."""
  if score == "peers":
    return {name: peer_scores(seen)[-1] for name, seen in rows.items()}
  return {name: seen[score][-1] for name, seen in rows.items()}


def gains_of(scores: dict[str, np.ndarray]) -> dict[str, statistics.Gain]:
  """The gains of the methods over independent networks."""
  taught = {
    name: x
    for name, x in scores.items()
    if name not in (INDEPENDENT, ALL_LABELS)
  }
  return statistics.compare(taught, scores[INDEPENDENT])


def make_table(job: Any, rows: Rows) -> tables.Table:
  """A row for each method."""
  columns = [finals(rows, x) for x in ("peers", "ensemble/accuracy")]
  gains = [
    statistics.compare_bounded(x, INDEPENDENT, ALL_LABELS) for x in columns
  ]
  apart = finals(rows, "disagreement")
  kinds = methods.networks_of(job.config)
  several = tuple(dict.fromkeys(kinds)) if len(set(kinds)) > 1 else ()
  cells = []
  for name, seen in rows.items():
    line = [NAMES[name]]
    for scores, gain in zip(columns, gains, strict=True):
      line.append(statistics.percent(scores[name]))
      line.append(gain[name].cell() if name in gain else "")
    line.append(statistics.percent(apart[name]))
    line += [
      statistics.percent(peer_scores(seen, lambda i, k=k: kinds[i] == k)[-1])
      for k in several
    ]
    cells.append(line)
  header = ["", "peers, %", "gain (95 % interval)", "ensemble, %"]
  header += ["gain (95 % interval)", "disagreement, %"]
  header += [f"{kind}, %" for kind in several]
  shown = (0, 1, 2, 3, 5)
  return tables.Table(header, cells, shown=shown)


READING = (
  "Mean ± standard deviation over seeds, in percent of test images after the "
  "last step: the mean accuracy of the peers, that of their mean "
  "probabilities, and the share of pairs of peers that answer differently. "
  "Gains are over independent networks: of the peers over independent peers, "
  f"and of the ensemble over the independent ensemble. {statistics.LEGEND} "
  "The row of all labels is an upper bound."
)


def conclude(job: Any, rows: Rows) -> list[str]:
  """The findings, in words."""
  peers, ensembles = (
    finals(rows, score) for score in ("peers", "ensemble/accuracy")
  )
  apart = finals(rows, "disagreement")
  base, bound = INDEPENDENT, ALL_LABELS
  texts = [
    f"{job.config.peers} independent networks reach {peers[base].mean():.1%} "
    f"each and {ensembles[base].mean():.1%} as an ensemble; with all labels "
    f"{peers[bound].mean():.1%} and {ensembles[bound].mean():.1%}."
  ]
  for scores, word in ((peers, "The peers"), (ensembles, "Their ensemble")):
    found = statistics.findings(gains_of(scores), NAMES, "independent")
    texts += [f"{word}: {' '.join(found)}"] if found else []
  leads = ", ".join(
    f"{NAMES[name]} {100 * (ensembles[name] - x).mean():+.1f}"
    for name, x in peers.items()
    if name != bound
  )
  texts.append(f"Lead of the ensemble over its mean peer, in points: {leads}.")
  limit = COLLAPSE * apart[base].mean()
  alike = [
    f"{NAMES[name]} ({x.mean():.1%})"
    for name, x in apart.items()
    if name not in (base, bound) and x.mean() < limit
  ]
  texts.append(
    f"Peers that have nearly become one network, since they disagree on less "
    f"than {COLLAPSE:.0%} of the {apart[base].mean():.1%} of independent "
    f"ones: {', '.join(alike) or 'none'}."
  )
  return texts


def setting(job: Any) -> str:
  """The images and the training, in words."""
  config, data = job.config, job.data
  kinds = " and ".join(dict.fromkeys(config.networks))
  ways = {
    "codistillation": "Codistillation's stale peers were renewed every "
    f"{config.stale_steps} steps, from step "
    f"{round(config.burn_in * config.steps)} on.",
    "okddip": "OKDDip's last peer is its leader, and counts as a peer.",
  }
  notes = "".join(f"{x} " for k, x in ways.items() if k in config.methods)
  return (
    "## The setting\n\n"
    f"Each seed drew {data.few.shape[1]} labelled images, "
    f"{config.examples_per_class} of each class, and {config.peers} networks "
    f"({kinds}). Peer j of seed i starts from the same weights and sees the "
    "same batches under every method. Each network took "
    f"{config.steps} steps of Adam (learning rate {config.learning_rate:g}) "
    f"on batches of {config.batch_size}; with all labels, as many steps on "
    f"all {len(data.train['label'])} images. Weights are the published ones "
    f"of `methods.create`. {notes}The "
    f"{len(data.test['label'])} test images chose nothing."
  )


def draw(job: Any, rows: Rows) -> dict[str, str]:
  """Saves the figure: accuracy against disagreement, and how it came."""
  gains = gains_of(finals(rows, "peers"))
  title = statistics.headline(gains, NAMES, "independent peers")
  peers, ensembles = (
    finals(rows, score) for score in ("peers", "ensemble/accuracy")
  )
  apart = finals(rows, "disagreement")
  looks = {name: (COLOURS[name], MARKERS[i]) for i, name in enumerate(COLOURS)}
  steps = job.config.evaluate_every * np.arange(
    1, 1 + len(rows[INDEPENDENT]["disagreement"])
  )
  path, handles = job.run.path / "disagreement.png", []
  with plots.figure(path, title=title, columns=2, width=10.0, height=5.2) as (
    left,
    right,
  ):
    for name in rows:
      colour, marker = looks[name]
      x, low, high = apart[name], peers[name], ensembles[name]
      ends = low.mean(), high.mean()
      style = {"color": colour, "marker": marker, "ls": "", "ms": 7.5}
      line = "--" if name == ALL_LABELS else "-"
      right.plot(
        steps, rows[name]["disagreement"].mean(1), color=colour, ls=line, lw=1.5
      )
      right.plot(
        steps[-1], rows[name]["disagreement"][-1].mean(), clip_on=False, **style
      )
      handles.append(plots.mark(NAMES[name], colour, marker))
      if name == ALL_LABELS:  # too far above the others to be drawn with them
        continue
      left.plot((x.mean(), x.mean()), ends, color=colour, lw=1.2)
      left.plot(x.mean(), ends[0], **style)
      left.plot(x.mean(), ends[1], mfc="white", **style)
    left.set(
      xlabel="disagreement of the peers", ylabel="accuracy on test images"
    )
    right.set(
      xlabel="steps",
      ylabel="disagreement of the peers",
      xlim=(0, steps[-1]),
      ylim=(0, None),
    )
    for axis in (left.xaxis, left.yaxis, right.yaxis):
      axis.set_major_formatter(plots.percent)
    left.set_title("filled: mean peer; open: ensemble", weight="normal")
    plots.legend(left, handles)
  caption = (
    "Left: accuracy after the last step against disagreement; filled marks are "
    "the mean peer, open ones the ensemble of the peers. Right: disagreement "
    "on test images over training; 0 is a collapse into one network. Of the "
    "upper bound only the disagreement is drawn. Means over seeds."
  )
  return {path.name: caption}
