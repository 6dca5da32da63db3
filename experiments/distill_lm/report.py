"""The table, the figures and the report of `experiments.distill_lm`."""

import math
from typing import Any

import numpy as np

from experiments.distill_lm.methods import BASELINE, METHODS, TITLES
from experiments.frame import plots, statistics, tables

SCALE = 100  # bits per 100 characters
COPIED = ("copied", "copied_scratch")  # with and without a teacher
GROUPS = {
  "labels alone": plots.RED,
  "probabilities of all tokens": plots.BLUE,
  "probabilities of some tokens": plots.GREEN,
  "text that a model has written": plots.ORANGE,
  "a start or a loss of another kind": plots.VIOLET,
}


def group_of(name: str) -> str:
  """The group of a method in the figures."""
  labels, dense, sparse, written, other = GROUPS
  if METHODS[name].start == "copied" or name in ("dskd", "uld"):
    return other
  if METHODS[name].loss == BASELINE:
    return labels
  if name in ("top_k", "sampled"):
    return sparse
  if METHODS[name].text != "corpus":
    return written
  return dense


def write(
  job: Any, rows: dict[str, Any], texts: dict[str, str], seconds: float
) -> None:
  """Draws the figures, writes report.md and prints the table."""
  job.run.publish(
    job.console,
    f"A language model of {job.data.name}, by {job.config.tokens} tokens",
    conclude(job, rows),
    make_table(job, rows),
    reading(job),
    setting(job, seconds),
    draw(job, rows),
    "## Texts",
    "The first seed of each method, after the first "
    f"{job.config.prompt} tokens of a test document.",
    *(f"{title}:\n\n{block(texts[k])}" for k, title in shown(job).items()),
  )


def shown(job: Any) -> dict[str, str]:
  """The texts in the report, and their titles."""
  names = {"text": "The document", "teacher": "The teacher"}
  return names | {name: TITLES[name] for name in job.methods}


def block(text: str) -> str:
  """A text as it is, in Markdown."""
  return "\n".join(f"    {line}" for line in text.splitlines())


def gains_of(job: Any, rows: dict[str, Any]) -> dict[str, statistics.Gain]:
  """The bits per character that each method saves."""
  bits = {name: -rows[name].bits for name in job.methods}
  baseline = bits.pop(BASELINE)
  return statistics.compare(bits, baseline)


def at_time(row: Any, limit: float) -> np.ndarray | None:
  """Validation bits `[seeds]` after so many seconds of training a student.

  Between evaluations they are interpolated; a method that ended before has its
  last ones, one that was not yet evaluated has none.
  """
  if limit < row.times[0]:
    return None
  return np.array([np.interp(limit, row.times, bits) for bits in row.curve.T])


def gains_at_time(job: Any, rows: dict[str, Any]) -> dict[str, statistics.Gain]:
  """The validation bits that each method saves in the time of the baseline."""
  baseline = rows[BASELINE]
  limit = baseline.times[-1]
  bits = {name: at_time(rows[name], limit) for name in job.methods}
  known = {k: -x for k, x in bits.items() if k != BASELINE and x is not None}
  return statistics.compare(known, -baseline.curve[-1])


def make_table(job: Any, rows: dict[str, Any]) -> tables.Table:
  """A row for each method, and the teacher's."""
  gains, timed, cells = gains_of(job, rows), gains_at_time(job, rows), []
  rates = len(job.config.learning_rates) > 1
  for name in (*job.methods, "teacher"):
    row = rows[name]
    time = "" if name == "teacher" else f"{row.milliseconds:.1f}"
    chosen = "" if name == "teacher" else f"{row.rate:g}"
    gain, equal = (
      statistics.cell(x, name, scale=SCALE) for x in (gains, timed)
    )
    if name in gains and name not in timed:
      equal = "not evaluated by then"
    cells.append(
      [
        TITLES[name],
        statistics.mean_std(row.bits, digits=3),
        gain,
        equal,
        statistics.mean_std(row.perplexity, digits=2),
        statistics.mean_std(row.samples, digits=2),
        time,
        *([chosen] if rates else []),
      ]
    )
  header = (
    *("", "bits per character", "bits saved per 100 characters"),
    *(
      "saved at equal time",
      "perplexity",
      "perplexity of its texts",
      "ms a step",
    ),
    *(["learning rate"] if rates else []),
  )
  return tables.Table(header, cells)


def reading(job: Any) -> str:
  """How to read the table."""
  return (
    "Mean ± standard deviation over seeds. Bits per character and perplexity "
    "(a token) are those of test documents; the bits saved are those over "
    f"cross-entropy alone. {statistics.LEGEND} The perplexity of its texts is "
    "under the teacher: it tells whether the teacher could have written them, "
    "and is low for dull texts too. The time of a step is that of one student, "
    f"of {job.config.seeds * len(job.config.learning_rates)} trained at once, "
    "without compilation and without the text that the teacher has written, in "
    "the fastest round of all methods of one program (the same loss and text, "
    "whatever the start); 1000 / ms are the steps a second. All methods took "
    "as many steps and read as many tokens, but for cross-entropy alone, twice "
    "as long. Saved at equal time: bits of validation documents after the time "
    "of all steps of cross-entropy alone, interpolated between evaluations, "
    f"which are {job.config.evaluate_every} steps apart. A method that is read "
    "there before its end has a learning rate that has not decayed yet. Other "
    "programs on the machine make times uncertain."
  )


def conclude(job: Any, rows: dict[str, Any]) -> list[str]:
  """The findings, in words."""
  bits = {name: row.bits.mean() for name, row in rows.items()}
  texts = {name: row.samples.mean() for name, row in rows.items()}
  gains = gains_of(job, rows)
  found = [
    f"Cross-entropy alone reaches {bits[BASELINE]:.3f} bits per character of "
    f"test documents, the teacher {bits['teacher']:.3f}. Gains are bits saved "
    "per 100 characters."
  ]
  found += statistics.findings(gains, TITLES, TITLES[BASELINE])
  found += statistics.findings(
    gains_at_time(job, rows), TITLES, f"{TITLES[BASELINE]} at equal time"
  )
  copied = [rows[x].bits for x in COPIED if x in job.methods]
  if len(copied) == len(COPIED):
    gain = statistics.gain_of(*(-x for x in copied)).cell(scale=SCALE)
    found.append(f"From copied layers, the teacher saves {gain} over none.")
  best = min(job.methods, key=lambda name: texts[name])
  found.append(
    f"Under the teacher, the document has a perplexity of {texts['text']:.2f}, "
    f"the teacher's own texts {texts['teacher']:.2f}, those of cross-entropy "
    f"alone {texts[BASELINE]:.2f}, and the least, of {TITLES[best]}, "
    f"{texts[best]:.2f}."
  )
  return found


def setting(job: Any, seconds: float) -> str:
  """The texts and the models, in words."""
  config, data = job.config, job.data
  train, validation, test = data.documents
  sizes = [x.config for x in (job.teacher, job.student)]
  models = " and ".join(
    f"{x.depth} layers of {x.width} units ({role})"
    for x, role in zip(sizes, ("teacher", "student"), strict=True)
  )
  origin = "Both were read from folders."
  if not config.teacher:
    origin = (
      f"The teacher took {config.teacher_steps} steps on the same training "
      "documents. Seed i has the same initial weights and reads the same "
      "windows under every method."
    )
  written = ""
  if seconds:
    written = (
      f" The teacher wrote {config.teacher_texts} texts in {seconds:.1f} s, "
      "compilation included."
    )
  return (
    "## The setting\n\n"
    f"{train} documents train ({len(data.train)} tokens), {validation} choose "
    f"learning rates and {test} test (at most {config.windows} windows of "
    f"{config.length} tokens each; a token has {data.characters:.2f} "
    f"characters there); vocabulary {job.vocabulary}. The models have "
    f"{models}. {origin} Each student took {config.steps} steps of Adam, "
    f"whose rate decays by a cosine, of {config.batch_size} windows: "
    f"{config.steps * config.batch_size * (config.length - 1)} tokens. A "
    f"sparse teacher tells {config.known} tokens of each position. Own texts "
    f"begin with {config.prompt} tokens of a training document, which count "
    f"too; on-policy GKD reads them in {100 * config.own_share:g} % of the "
    f"steps.{written}"
  )


def draw(job: Any, rows: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  scores(job, rows)
  curves(job, rows)
  return {
    "methods.png": "Bits per character of test documents, perplexity of the "
    "students' texts under the teacher, and the time of a step: means over "
    "seeds, each seed as a dot, with 95 % intervals. Dashed: cross-entropy "
    "alone. Dotted: the teacher.",
    "curves.png": "Bits per character of validation documents over the time "
    "of training one student, steps times the time of a step, mean over seeds.",
  }


def headline(gains: dict[str, statistics.Gain]) -> str:
  """The title of a figure."""
  if any(gain.verdict == "unknown" for gain in gains.values()):
    return statistics.TOO_FEW.capitalize()
  helped = [name for name, gain in gains.items() if gain.verdict == "helped"]
  if not helped:
    return "No method is clearly better than cross-entropy alone"
  best = max(helped, key=lambda name: gains[name].mean)
  saved = SCALE * gains[best].mean
  return f"{saved:.1f} bits saved per 100 characters by {TITLES[best]}"


def scores(job: Any, rows: dict[str, Any]) -> None:
  """Bits, texts and time of all methods, one below the other."""
  names = job.methods
  size = {"width": 10.0, "height": 1.8 + 0.33 * len(names)}
  with plots.figure(
    job.run.path / "methods.png",
    title=headline(gains_of(job, rows)),
    columns=3,
    **size,
  ) as grid:
    panels = (
      ("bits", "bits per character"),
      ("samples", "perplexity of its texts"),
      ("milliseconds", "ms a step"),
    )
    for axes, (field, label) in zip(grid, panels, strict=True):
      for i, name in enumerate(names):
        values = np.atleast_1d(getattr(rows[name], field))
        colour = GROUPS[group_of(name)]
        if field == "milliseconds":
          axes.barh(i, values.mean(), 0.6, color=colour, alpha=0.85, lw=0)
          continue
        axes.plot(values, np.full(len(values), i), ".", color=colour, alpha=0.4)
        axes.plot(values.mean(), i, "o", color=colour, ms=6)
        if ends := statistics.interval(values):
          axes.plot(ends, (i, i), color=colour, lw=1.5)
      if field != "milliseconds":
        for name, style in ((BASELINE, "--"), ("teacher", ":")):
          x = np.mean(getattr(rows[name], field))
          axes.axvline(x, color=plots.DARK, ls=style, lw=1.2, zorder=0)
      axes.set(xlabel=label)
      plots.name_rows(axes, [TITLES[name] for name in names])
      axes.tick_params(labelleft=axes is grid[0])
    used = [x for x in GROUPS if x in {group_of(name) for name in names}]
    plots.legend(grid, [plots.mark(x, GROUPS[x], "o") for x in used])


def curves(job: Any, rows: dict[str, Any]) -> None:
  """Validation bits over time."""
  title = "What each method reaches in the same time"
  with plots.figure(
    job.run.path / "curves.png", title=title, width=7.6, height=5.2
  ) as axes:
    low = []
    for i, name in enumerate(job.methods):
      row = rows[name]
      bits = row.curve.mean(1)
      low += bits.tolist()
      axes.plot(
        row.times,
        bits,
        color=plots.SERIES[i % len(plots.SERIES)],
        ls=("-", "--", ":")[i // len(plots.SERIES) % 3],
        lw=1.6,
        marker=".",
        label=TITLES[name],
      )
    finite = [x for x in low if math.isfinite(x)]
    if finite and max(finite) > min(finite):
      top = float(np.quantile(finite, 0.97))
      axes.set_ylim(min(finite) - 0.03 * (top - min(finite)), top)
    axes.set(
      xlabel="seconds of training a student",
      ylabel="bits per character, validation",
    )
    axes.set_xlim(left=0)
    plots.legend(axes)
