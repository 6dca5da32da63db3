"""The tables, the figure and the report of `experiments.federate`."""

from typing import Any

import numpy as np

from experiments.federate import methods
from experiments.federate.methods import BASELINE, CENTRAL, LOCAL, NAMES
from experiments.federate.training import Row
from experiments.frame import plots, statistics, tables
from kdjax import federated

Rows = dict[str, Row]
MEGABYTE = 1e6
COLOURS = dict(
  zip((BASELINE, *methods.METHODS), (plots.INK, *plots.SERIES), strict=False)
)
BOUNDS = {LOCAL: ":", CENTRAL: "--"}


def write(job: Any, results: dict[float, Rows]) -> None:
  """Draws the figure, writes report.md and prints the tables."""
  config, parts = job.config, []
  for concentration, rows in results.items():
    parts += [f"## Dirichlet {concentration:g}", conclude(job, rows)]
    parts.append(make_table(job, concentration, rows))
  job.run.publish(
    job.console,
    f"{config.clients} clients of {config.dataset}",
    [mortality(job, results)],
    draw(job, results),
    *parts,
    reading(job),
    setting(job),
  )


def finals(rows: Rows) -> dict[str, np.ndarray]:
  """Accuracies after the last round, `[seeds]`."""
  return {name: row.accuracy[-1] for name, row in rows.items()}


def gains_of(rows: Rows) -> dict[str, statistics.Gain]:
  """The gains over FedAvg after the last round."""
  scores = finals(rows)
  taught = {
    name: x
    for name, x in scores.items()
    if name not in (BASELINE, LOCAL, CENTRAL)
  }
  return statistics.compare(taught, scores[BASELINE])


def reached(row: Row, goal: float) -> tuple[np.ndarray, np.ndarray]:
  """Rounds and megabytes until the goal, of the seeds that reach it."""
  there = row.accuracy >= goal
  seeds = np.flatnonzero(there.any(0))
  first = there.argmax(0)[seeds]
  return 1 + first, row.sent[first, seeds] / MEGABYTE


def until(values: np.ndarray, seeds: int, digits: int) -> str:
  """Mean and deviation of the seeds that reach the goal, and how many do."""
  if not len(values):
    return "never"
  text = statistics.mean_std(values, digits=digits)
  return text if len(values) == seeds else f"{text} ({len(values)} of {seeds})"


def make_table(job: Any, concentration: float, rows: Rows) -> tables.Table:
  """A row for each method."""
  config, scores = job.config, finals(rows)
  gains = gains_of(rows) | {
    name: statistics.gain_of(scores[name], scores[BASELINE]) for name in BOUNDS
  }
  cells = []
  for name, row in rows.items():
    counts, megabytes = reached(row, config.goal)
    gain = gains[name].cell() if name in gains else ""
    line = [NAMES[name], statistics.percent(scores[name]), gain]
    line.append(until(counts, config.seeds, 1))
    if row.up:
      line.append(until(megabytes, config.seeds, 2))
      line.append(f"{row.up / 1e3:.1f} + {row.down / 1e3:.1f}")
    else:
      line += ["", ""]
    cells.append(line)
  goal = f"{config.goal:.0%}".replace("%", " %")
  header = ["", "accuracy, %", "gain (95 % interval)", f"rounds to {goal}"]
  header += [f"MB to {goal}", "kB up + down"]
  return tables.Table(header, cells, f"Dirichlet {concentration:g}")


def reading(job: Any) -> str:
  """How to read the tables."""
  return (
    "Mean ± standard deviation over seeds. The accuracy is that of the last "
    "round on test images of all classes: of the server's network (FedAvg, "
    "FedNTD, FedDF, FedGen, FedKD's mentee), or the mean over the clients' own "
    "networks (local, FedMD, FedProto by the nearest global prototype, and "
    "FedGKT, whose server continues them). "
    f"The gain is over FedAvg. {statistics.LEGEND} Rounds and megabytes are "
    "those after which the accuracy is first reached, with the number of seeds "
    "that reach it if not all do; megabytes are sums over the clients and both "
    "ways, by `federated.message_bytes`. The last column is of one client and "
    "one round. Local training and centralized training send nothing, and are "
    "the lower and the upper bound."
  )


def mortality(job: Any, results: dict[float, Rows]) -> str:
  """The clients that died, in words."""
  config = job.config
  if not config.dying_clients:
    return "No client died."
  row = next(iter(results.values()))[BASELINE]
  died = row.died.sum(0).mean()
  return (
    f"In each round {config.dying_clients} of {config.clients} clients, drawn "
    f"by the seed, died before they sent ({died:.0f} times in {config.rounds} "
    "rounds of a seed). Each round went on with the others: the weight of a "
    "lost message is 0, and its client began the next round as it had begun "
    "this one."
  )


def conclude(job: Any, rows: Rows) -> list[str]:
  """The findings, in words."""
  scores = finals(rows)
  texts = [
    f"Local training reaches {scores[LOCAL].mean():.1%}, FedAvg "
    f"{scores[BASELINE].mean():.1%}, centralized training "
    f"{scores[CENTRAL].mean():.1%}."
  ]
  texts += statistics.findings(gains_of(rows), NAMES, "FedAvg")
  cheap = {
    name: found.mean()
    for name, row in rows.items()
    if row.up
    for found in (reached(row, job.config.goal)[1],)
    if len(found) == job.config.seeds
  }
  order = ", ".join(
    f"{NAMES[name]} {mean:.2f}"
    for name, mean in sorted(cheap.items(), key=lambda pair: pair[1])
  )
  texts.append(
    f"Megabytes to {job.config.goal:.0%}, of the methods that reach it in "
    f"every seed: {order or 'none does'}."
  )
  return texts


def setting(job: Any) -> str:
  """The data and the training, in words."""
  config, data = job.config, job.data
  sizes = "; ".join(
    f"{shards.sizes.min()} to {shards.sizes.max()} at {concentration:g}"
    for concentration, shards in data.shards.items()
  )
  consensus = {
    "equal": "clients count equally",
    "size": "clients count by their images",
    "confidence": "clients count by the variance of their logits",
  }[config.weights]
  private = ""
  if config.noise_multiplier:
    # FedMD's first round sends nothing.
    sums = config.rounds - 1
    budget = federated.privacy_epsilon(config.noise_multiplier, rounds=sums)
    private = (
      "The logits of FedMD's clients are clipped to a norm of "
      f"{config.clip:g}, and their sum has noise of "
      f"{config.noise_multiplier:g} times that: the {sums} messages of a "
      f"client are ({budget:.3g}, 1e-5)-differentially private. "
    )
  return (
    "## The setting\n\n"
    f"{len(data.private['label'])} images were dealt out to {config.clients} "
    "clients, each class by a Dirichlet distribution, for each seed anew "
    f"(again, where a client got fewer than {config.min_examples}): clients "
    f"have {sizes}. {config.public_examples} further images without labels "
    "are public; FedMD and FedDF use them. In each of "
    f"{config.rounds} rounds a client passes {config.local_epochs} times over "
    f"its images by gradient descent (batches of {config.batch_size}, learning "
    f"rate {config.learning_rate:g}); FedDF's, FedGen's and FedGKT's servers "
    f"take {config.server_steps} steps of Adam. The consensus is the mean of "
    f"{config.consensus}; {consensus} in it. {private}Networks are MLPs of "
    f"{config.hidden} units, FedKD's mentors and FedGKT's server of "
    f"{config.mentor_hidden}; seed i "
    "starts from the same network under every method. FedMD's first "
    "round is its training before the first message. Centralized training "
    f"passes as often over all images. The {len(data.test['label'])} test "
    "images chose nothing."
  )


def draw(job: Any, results: dict[float, Rows]) -> dict[str, str]:
  """Saves the figure: accuracy against bytes, a panel a concentration."""
  first = min(results)
  title = statistics.headline(gains_of(results[first]), NAMES, "FedAvg")
  path = job.run.path / "bytes.png"
  columns = len(results)
  with plots.figure(
    path,
    title=f"{title}, at Dirichlet {first:g}",
    columns=columns,
    width=max(6.0, 4.8 * columns),
    height=4.8,
  ) as grid:
    panels = np.ravel(grid)
    for axes, (concentration, rows) in zip(
      panels, results.items(), strict=True
    ):
      for name, row in rows.items():
        if name in BOUNDS:
          axes.axhline(
            row.accuracy[-1].mean(),
            color=plots.GREY,
            ls=BOUNDS[name],
            lw=1.4,
            label=NAMES[name],
          )
          continue
        sent = row.sent.mean(1) / MEGABYTE
        shown = sent > 0
        plots.band(
          axes,
          sent[shown],
          row.accuracy[shown],
          NAMES[name],
          COLOURS[name],
        )
      axes.axhline(job.config.goal, color=plots.FAINT, lw=1.0, zorder=0)
      axes.set(
        xscale="log",
        xlabel="megabytes sent, all clients, both ways",
        ylabel="accuracy on test images",
        ylim=(0, 1),
      )
      axes.yaxis.set_major_formatter(plots.percent)
      axes.set_title(f"Dirichlet {concentration:g}")
    plots.legend(panels[0], panels[0].get_legend_handles_labels()[0])
  caption = (
    "Accuracy on test images of all classes against the megabytes that all "
    "clients have sent and got, after each round; means over seeds in a band "
    f"of one standard deviation. Thin line: {job.config.goal:.0%}. Dashed: "
    "centralized training after its last round. Dotted: local training."
  )
  return {path.name: caption}
