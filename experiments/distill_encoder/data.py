"""Tokens of sentences, divided by documents, and the teacher."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.frame import encoders, texts
from kdjax import nets

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.08  # of the documents
CLASSES = 16  # documents that sentences are assigned to, at most


class Sentences(NamedTuple):
  """Sentences as rows of tokens; 0 is padding."""

  tokens: np.ndarray  # `[n, length]`
  following: np.ndarray  # the next sentence of the document, `[n, length]`
  document: np.ndarray  # the number of the document, `[n]`


class Data(NamedTuple):
  """The texts and the teacher.

  Tokens are numbered anew: rows of an embedding that no text reads cost time
  and never change.
  """

  train: Sentences
  validation: Sentences  # of documents that only show the progress
  test: Sentences  # of documents that nothing else has
  documents: int
  folder: pathlib.Path  # of the teacher
  whole: nets.TextEncoder  # the teacher with all tokens
  teacher: nets.TextEncoder  # with the tokens of the texts
  known: np.ndarray  # the tokens of the texts; padding is the first
  tokenizer: Any


def load_data(config: Any) -> Data:
  """Reads the teacher and the texts, and divides the documents."""
  folder = encoders.find_folder(config.teacher, "teacher")
  teacher = encoders.read(folder, "teacher")
  tokenizer = encoders.read_tokenizer(folder)
  more = texts.read_documents(config.more_text) if config.more_text else {}
  parts = divide(config, texts.read_documents(config.text), more)
  encoders.expect_length(config, teacher, "teacher")
  length = config.max_length
  # The sentences of a part, then the next ones.
  encoded = [
    encoders.encode(
      tokenizer, [x for x, _, _ in part] + [x for _, x, _ in part], length
    )
    for part in parts
  ]
  padding = encoders.padding_of(tokenizer)
  known = encoders.known_tokens(padding, *encoded)
  pairs = zip(encoded, parts, strict=True)
  rows = [rows_of(tokens, part, known, length) for tokens, part in pairs]
  return Data(
    *rows,
    documents=len({x for part in parts for _, _, x in part}),
    folder=folder,
    whole=teacher,
    teacher=encoders.with_tokens(teacher, known),
    known=known,
    tokenizer=tokenizer,
  )


Triple = tuple[str, str, int]  # a sentence, the next one, and the document


def divide(
  config: Any, documents: dict[str, str], more: dict[str, str]
) -> list[list[Triple]]:
  """Divides documents in three, and draws sentences of each part.

  Documents of `more` only train, after all others: the parts that judge are
  the same with and without them. A sentence that two documents share is in
  neither of them but the first.
  """
  rows: list[list[Triple]] = []
  seen: set[str] = set()
  own = 0
  for texts_of, judged in ((documents, True), (more, False)):
    for text in texts_of.values():
      if triples := new_sentences(text, len(rows), seen):
        rows.append(triples)
    own = len(rows) if judged else own
  generator = np.random.default_rng(config.seed)
  order = generator.permutation(own)
  tests = round(TEST_SHARE * own)
  ends = tests, tests + max(1, round(VALIDATION_SHARE * own))
  parts = []
  groups = order[ends[1] :], order[slice(*ends)], order[: ends[0]]
  sizes = config.examples, config.validation_examples, config.test_examples
  for group, size in zip(groups, sizes, strict=True):
    part = [triple for i in group for triple in rows[i]]
    parts.append(draw(generator, part, size))
  further = [triple for row in rows[own:] for triple in row]
  parts[0] += draw(generator, further, config.examples - len(parts[0]))
  counts = np.bincount([x for _, _, x in parts[2]], minlength=1)
  if min(map(len, parts)) < 20 or np.sum(counts >= 2 * config.shots) < 2:
    raise ValueError(
      f"text has {own} documents and {sum(map(len, rows[:own]))} sentences; "
      "expected 20 sentences in each of the three parts, and two test "
      f"documents with {2 * config.shots} of them."
    )
  return parts


def new_sentences(text: str, document: int, seen: set[str]) -> list[Triple]:
  """The sentences of a document that no document before it has."""
  found = [x for x in texts.sentences_of(text) if x not in seen]
  found = list(dict.fromkeys(found))
  seen.update(found)
  # The last sentence of a document follows the last but one.
  after = [*found[1:], *found[-2:-1]]
  pairs = zip(found, after, strict=True) if len(found) > 1 else ()
  return [(sentence, following, document) for sentence, following in pairs]


def draw(
  generator: np.random.Generator, part: list[Triple], size: int
) -> list[Triple]:
  """At most `size` sentences of a part, in their order."""
  chosen = generator.permutation(len(part))[:size]
  return [part[i] for i in sorted(chosen)]


def rows_of(
  encoded: list[list[int]], part: list[Triple], known: np.ndarray, length: int
) -> Sentences:
  """Rows of new numbers, padded to one length."""
  rows = encoders.number(encoded, known, length)
  sentences, following = np.split(rows, 2)
  return Sentences(sentences, following, np.array([x for _, _, x in part]))
