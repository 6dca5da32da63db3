"""Documents, their tokens, and windows of the parts that hold documents."""

import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import nets

HELD_OUT = 0.1  # of the characters, for validation and again for the test
FEW = 10  # so few documents are cut into pieces
PIECES = 40  # of all documents together
END = "<|end|>"  # between documents


class Tokenizer(NamedTuple):
  """A map between text and tokens."""

  encode: Callable[[str], list[int]]
  decode: Callable[[Sequence[int]], str]
  size: int  # the number of tokens
  end: int | None  # the token between documents
  # `save(folder)` writes it; None for characters.
  save: Callable[[pathlib.Path], None] | None


class Data(NamedTuple):
  """Tokens on the device; no document is in two of the parts."""

  train: jax.Array  # [tokens], the documents one after the other
  validation: jax.Array  # [windows, length]
  test: jax.Array  # [windows, length]
  characters: float  # of the test text, for each of its tokens
  validation_characters: float  # of the validation text, likewise
  tokenizer: Tokenizer
  documents: tuple[int, int, int]  # how many each part has
  name: str  # of the text


def load_data(config: Any) -> Data:
  """Reads the documents, deals them out once for all seeds and encodes them."""
  documents, name = read_documents(config.text)
  parts = deal(documents, np.random.default_rng(config.seed))
  if config.teacher:
    tokenizer = load_tokenizers(config.teacher, config.student)
  elif config.tokens == "bpe":
    tokenizer = train_bpe(config, parts[0])
  else:
    tokenizer = characters_of(parts[0])
  rows = [encode(part, tokenizer) for part in parts]
  least = 2 * config.length
  for row, part in zip(rows, ("training", "validation", "test"), strict=True):
    if len(row) < least:
      raise ValueError(
        f"text has {len(row)} tokens of {part} documents; expected at least "
        f"{least}, twice the length."
      )
  train, validation, test = rows
  return Data(
    jnp.asarray(train),
    cut(validation, config.length, config.windows),
    cut(test, config.length, config.windows),
    sum(map(len, parts[2])) / len(test),
    sum(map(len, parts[1])) / len(validation),
    tokenizer,
    (len(parts[0]), len(parts[1]), len(parts[2])),
    name,
  )


def read_documents(text: str | None) -> tuple[list[str], str]:
  """The documents of a file, a folder or a pattern, or those of Python."""
  if text is None:
    topics = importlib.import_module("pydoc_data.topics").topics
    return [topics[name] for name in sorted(topics)], "Python's documentation"
  path = pathlib.Path(text)
  if path.is_dir():
    files = sorted(path.glob("**/*.txt"))
  elif path.is_file():
    files = [path]
  else:
    files = sorted(x for x in path.parent.glob(path.name) if x.is_file())
  if not files:
    raise ValueError(
      f"text is {text!r}, which names no file; expected a text file, a folder "
      "of .txt files, or a pattern such as 'folder/*.txt'."
    )
  documents = [document for x in files if (document := read(x)).strip()]
  if len(documents) < FEW:
    documents = [y for x in documents for y in pieces(x, documents)]
  return documents, path.name


def read(path: pathlib.Path) -> str:
  """The text of a file."""
  try:
    return path.read_text("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{path} is no UTF-8 text: byte {error.start} is "
      f"0x{error.object[error.start]:02x}. Convert it, such as by iconv -f "
      "latin1 -t utf-8."
    ) from None


def pieces(document: str, documents: list[str]) -> list[str]:
  """Cuts a document at ends of lines, as its share of the text says."""
  size = max(1, sum(map(len, documents)) // PIECES)
  found, piece = [], ""
  for line in document.splitlines(keepends=True):
    piece += line
    # A line that is longer than a piece is cut as well.
    while len(piece) >= size:
      end = len(piece) if len(piece) < 2 * size else size
      found.append(piece[:end])
      piece = piece[end:]
  return found + [piece] * bool(piece.strip())


def deal(
  documents: list[str], generator: np.random.Generator
) -> tuple[list[str], list[str], list[str]]:
  """Deals documents out to training, validation and test.

  A document longer than a part that is held out is for training, unless all
  are.
  """
  if len(documents) < 3:
    raise ValueError(
      f"text has {len(documents)} documents; expected three or more, for "
      "training, validation and test."
    )
  wanted = HELD_OUT * sum(map(len, documents))
  order = [int(i) for i in generator.permutation(len(documents))]
  order.sort(key=lambda i: len(documents[i]) > wanted)  # stable
  held_out: list[list[str]] = []
  for left in (2, 1):
    part: list[str] = []
    while (sum(map(len, part)) < wanted and len(order) > left) or not part:
      part.append(documents[order.pop(0)])
    held_out.append(part)
  test, validation = held_out
  return [documents[i] for i in sorted(order)], validation, test


def encode(documents: list[str], tokenizer: Tokenizer) -> np.ndarray:
  """The tokens of documents as one row."""
  row: list[int] = []
  for document in documents:
    row += tokenizer.encode(document)
    row += [] if tokenizer.end is None else [tokenizer.end]
  return np.asarray(row, np.int32)


def cut(row: np.ndarray, length: int, count: int) -> jax.Array:
  """Cuts windows, which overlap by the token that is predicted by none.

  If there are more than `count`, they are spread over the row.
  """
  starts = np.arange(0, len(row) - length + 1, length - 1)
  if len(starts) > count:
    starts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
  return jnp.asarray(row[starts[:, None] + np.arange(length)])


def characters_of(documents: list[str]) -> Tokenizer:
  """A token for each character of the documents, and one for all others."""
  # 0 ends a document, 1 is any character that training has not seen.
  known = sorted(set().union(*documents))
  ids = {character: i for i, character in enumerate(known, 2)}
  shown = ["\n", "\N{REPLACEMENT CHARACTER}", *known]
  return Tokenizer(
    lambda text: [ids.get(character, 1) for character in text],
    lambda tokens: "".join(shown[i] for i in tokens),
    len(shown),
    0,
    None,
  )


def train_bpe(config: Any, documents: list[str]) -> Tokenizer:
  """Byte-pair encoding of the training documents.

  A run that goes on has the tokenizer that it began with.
  """
  tokenizers: Any = import_tokenizers()
  saved = pathlib.Path(config.workdir) / "tokenizer.json"
  if config.resume and saved.is_file():
    return from_package(tokenizers.Tokenizer.from_file(str(saved)))
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  level = tokenizers.pre_tokenizers.ByteLevel
  made.pre_tokenizer = level(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=config.vocabulary,
    special_tokens=[END],
    initial_alphabet=level.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(documents, trainer)
  return from_package(made)


def load_tokenizers(*folders: str) -> Tokenizer:
  """The one tokenizer of all folders."""
  import_tokenizers()
  loaded = [nets.load_tokenizer(folder) for folder in folders]
  first = loaded[0].get_vocab(with_added_tokens=True)
  for folder, tokenizer in zip(folders, loaded, strict=True):
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if vocab == first:
      continue
    strange = sorted(vocab.items() ^ first.items(), key=lambda x: x[1])
    raise ValueError(
      f"{folders[0]} and {folder} have two tokenizers, of {len(first)} and "
      f"{len(vocab)} tokens, that differ in {len(strange)} entries, such as "
      f"{strange[0][0]!r}; expected one. Losses for two tokenizers are "
      "kdjax.language.uld_loss, alm_loss and mined_logits."
    )
  return from_package(loaded[0])


def from_package(tokenizer: Any) -> Tokenizer:
  """Of the package tokenizers."""
  tokenizer.no_truncation()
  tokenizer.no_padding()
  known = (END, "<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
  ends = [i for x in known if (i := tokenizer.token_to_id(x)) is not None]

  def save(folder: pathlib.Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))

  return Tokenizer(
    lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    lambda tokens: tokenizer.decode(list(map(int, tokens))),
    tokenizer.get_vocab_size(with_added_tokens=True),
    ends[0] if ends else None,
    save,
  )


def import_tokenizers() -> Any:
  """The package; a run without it ends with one line."""
  try:
    return importlib.import_module("tokenizers")
  except ModuleNotFoundError:
    raise ValueError(
      "BPE and tokenizers of folders need the package tokenizers: pip install "
      "tokenizers."
    ) from None
