"""The tables, the figures and the report of `experiments.finetune_encoder`."""

from typing import Any

from experiments.finetune_encoder.teachers import WHOLE, size_of
from experiments.finetune_encoder.training import ALL_LABELS, Row
from experiments.frame import (
  finetuning,
  plots,
  statistics,
  tables,
  transferability,
)

NAMES = finetuning.NAMES | {ALL_LABELS: "linear probe, all labels"}
BOUND = "more labels"


def write(bench: Any, results: dict[str, Any]) -> None:
  """Draws the figures, writes report.md and prints the tables."""
  rows, teachers = results["rows"], results.get("teachers")
  parts = [conclude(bench, rows), make_table(rows), read_table(bench)]
  if teachers:
    parts += [
      "## Which encoder?",
      transferability.conclude(teachers),
      encoder_table(bench, results),
      transferability.criterion_table(teachers),
      "Each encoder is fine-tuned plainly on the same few labels of a seed. "
      "Tau is Kendall's rank correlation, over encoders, of a score before "
      "fine-tuning and the test accuracy after it; Pearson's is the linear "
      "one. Its first: the accuracy of the encoder that is ranked first. "
      f"Scores see the few labels, or all {len(bench.data.pool.label)} of the "
      "pool. LEEP and NCE read a linear head that each encoder got on the "
      "sentences of the source.",
    ]
  bench.run.publish(
    bench.console,
    f"{bench.encoders[WHOLE].title}, fine-tuned on few labels",
    *parts,
    draw(bench, results),
  )


def gains_over(baseline: str, rows: dict[str, Row]) -> dict[str, Any]:
  """Each method's gain over a baseline; that of the bound is not corrected."""
  left_out = {"target_only", baseline} - {ALL_LABELS}
  scores = {k: x.accuracy for k, x in rows.items() if k not in left_out}
  scores[baseline] = rows[baseline].accuracy
  return statistics.compare_bounded(scores, baseline, ALL_LABELS)


def make_table(rows: dict[str, Row]) -> tables.Table:
  """A row for each method."""
  scratch, tuned = (gains_over(x, rows) for x in ("target_only", "finetune"))
  columns = {
    "": lambda method: NAMES[method],
    "accuracy, %": lambda method: statistics.percent(rows[method].accuracy),
    "gain over target-only": lambda method: statistics.cell(scratch, method),
    "gain over fine-tuning": lambda method: statistics.cell(tuned, method),
    "chosen": lambda method: describe_choice(rows[method]),
    "validation, %": lambda x: statistics.percent(rows[x].validation),
  }
  return tables.of_rows(rows, columns, shown=(0, 1, 2, 3))


def describe_choice(row: Row) -> str:
  """The candidate that the validation sentences chose."""
  rates, weights = row.candidates["rate"], row.candidates["weight"]
  if len(rates) < 2:
    return ""
  text = f"rate {rates[row.chosen]:g}"
  if len(set(weights.tolist())) > 1:
    text = f"{weights[row.chosen]:.2g}, {text}"
  return text


def read_table(bench: Any) -> str:
  """The sentences and how to read the table, in words."""
  config, data = bench.config, bench.data
  texts = (
    "the files of --text" if config.text else "Python's help and docstrings"
  )
  return (
    f"{statistics.over_seeds(config.seeds)} (the few labels, the "
    "new head, the order; of random weights also these), on "
    f"{len(data.test.label)} test sentences. Gains are in points. "
    f"{statistics.LEGEND} Each column is corrected by itself. The task: which "
    f"of {config.classes} documents a sentence is of, from {texts}: "
    f"{', '.join(data.names)}. A seed has {config.shots} labeled sentences of "
    f"each, of {config.max_length} tokens at most; {config.steps} updates of "
    f"{config.batch_size} sentences. Learning rate and weight were chosen with "
    f"the first seed's labels on {len(data.validation.label)} validation "
    "sentences, which have labels too, and hold for all seeds; a method with a "
    "weight has the rate of plain fine-tuning. The head has "
    f"the rate in the table, the other layers {config.body_rate:g} of it. "
    "Target-only starts from random weights, whose share of that rate was "
    "chosen too, from this one and 1; prototypes take the embeddings as they "
    "are and the nearest class mean. The pretrained head that Co-Tuning and "
    "LwF read was trained on frozen embeddings of "
    f"{len(data.source.label)} sentences of {config.classes} other documents, "
    "the source, of which MAML, ANIL, Reptile and prototypical nets also have "
    f"their episodes ({config.meta_steps} updates, one network for all seeds). "
    f"*{NAMES[ALL_LABELS]}* has {len(data.pool.label)} labels in place of "
    f"{data.few.shape[1]}."
  )


def conclude(bench: Any, rows: dict[str, Row]) -> list[str]:
  """The findings on the methods, in words."""
  scratch, tuned, bound = (
    rows[name].accuracy for name in ("target_only", "finetune", ALL_LABELS)
  )
  findings = [
    f"With {bench.config.shots} labels a class, target-only reaches "
    f"{scratch.mean():.1%}, fine-tuning {tuned.mean():.1%}, and a linear probe "
    f"with {len(bench.data.pool.label)} labels {bound.mean():.1%}."
  ]
  for baseline in ("target_only", "finetune"):
    gains = gains_over(baseline, rows)
    gains.pop(ALL_LABELS)
    findings += statistics.findings(gains, NAMES, NAMES[baseline])
  return findings


def encoder_table(bench: Any, results: dict[str, Any]) -> tables.Table:
  """The accuracy of fine-tuning from each encoder, and its size."""
  teachers, rows = results["teachers"], results["encoders"]
  accuracy = dict(zip(teachers.names, teachers.accuracy, strict=True))
  named = {
    bench.encoders[name].title: name for name in rows if name in bench.encoders
  }
  first, *others = teachers.names
  gains = statistics.compare({x: accuracy[x] for x in others}, accuracy[first])
  columns = {
    "encoder": str,
    "accuracy, %": lambda title: statistics.percent(accuracy[title]),
    f"gain over {first}": lambda title: statistics.cell(gains, title),
    "chosen": lambda title: describe_choice(rows[named[title]]),
    "parameters": lambda title: (
      f"{size_of(bench.encoders[named[title]]) / 1e6:.2f} M"
    ),
  }
  return tables.of_rows(teachers.names, columns, shown=(0, 1, 2))


def draw(bench: Any, results: dict[str, Any]) -> dict[str, str]:
  """Saves the figures; returns their captions by file name."""
  rows, path = results["rows"], bench.run.path
  gains = gains_over("finetune", rows)
  gains.pop(ALL_LABELS)
  groups = {
    NAMES[x]: BOUND if x == ALL_LABELS else finetuning.origin_of(x)
    for x in rows
  }
  plots.accuracy_bars(
    path / "accuracy.png",
    {NAMES[x]: row.accuracy for x, row in rows.items()},
    groups=groups,
    colours=finetuning.ORIGINS | {BOUND: plots.GREY},
    oracles={},
    oracle_label="",
    reference=NAMES["finetune"],
    title=statistics.headline(gains, NAMES, "plain fine-tuning"),
    of="test sentences",
  )
  captions = {
    "accuracy.png": "Accuracy on test sentences: means with 95 % intervals and "
    "each seed as a dot. Dashed: plain fine-tuning."
  }
  if teachers := results.get("teachers"):
    transferability.score_scatter(path / "teachers.png", teachers)
    captions["teachers.png"] = (
      "Scores by the few labels against the accuracy after fine-tuning: means "
      "over seeds, and each seed faintly."
    )
  return captions
