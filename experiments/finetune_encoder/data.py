"""Sentences of documents, which are the classes; few of them have labels."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments.frame import data as frame_data
from experiments.frame import texts


class Sentences(NamedTuple):
  """Sentences and the numbers of their documents among the classes."""

  texts: tuple[str, ...]
  label: np.ndarray  # `[n]`


class Data(NamedTuple):
  """The source has other documents than the other parts, as many classes."""

  source: Sentences  # for heads of the pretrained encoders, and episodes
  pool: Sentences  # of the target; a seed has the labels of its few alone
  validation: Sentences  # chooses among candidates
  test: Sentences
  few: np.ndarray  # `[seeds, labelled]`, places in the pool
  names: tuple[str, ...]  # of the target's documents


def load_data(config: Any) -> Data:
  """Reads the documents, and divides the sentences of each class."""
  rows = sentences_by_document(texts.read_documents(config.text))
  sizes = config.examples, config.validation_examples, config.test_examples
  needed = max(config.source_examples, sum(sizes))
  large = [name for name, row in rows.items() if len(row) >= needed]
  wanted = 2 * config.classes
  if len(large) < wanted:
    raise ValueError(
      f"text has {len(large)} documents of {needed} sentences or more; "
      f"expected {wanted}: {config.classes} classes of the source and as many "
      "of the target. Give fewer --classes, or fewer sentences of a class."
    )
  generator = np.random.default_rng(config.seed)
  chosen = [large[i] for i in generator.permutation(len(large))[:wanted]]
  drawn = {
    name: [rows[name][i] for i in generator.permutation(len(rows[name]))]
    for name in chosen
  }
  target, source = chosen[: config.classes], chosen[config.classes :]
  ends = np.cumsum((0, *sizes))
  parts = [
    gather([drawn[name][start:end] for name in target])
    for start, end in itertools.pairwise(ends)
  ]
  seeds = range(config.seed, config.seed + config.seeds)
  few = frame_data.draw_few(parts[0].label, config.shots, seeds, by_class=True)
  return Data(
    gather([drawn[name][: config.source_examples] for name in source]),
    *parts,
    few=few,
    names=tuple(target),
  )


def sentences_by_document(documents: dict[str, str]) -> dict[str, list[str]]:
  """The different sentences; one that documents share is in none but one."""
  seen: set[str] = set()
  rows = {}
  for name, text in documents.items():
    found = [x for x in texts.sentences_of(text) if x not in seen]
    rows[name] = list(dict.fromkeys(found))
    seen.update(found)
  return rows


def gather(rows: list[list[str]]) -> Sentences:
  """The sentences of all classes, by class."""
  label = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
  return Sentences(tuple(x for row in rows for x in row), label)
