"""The encoders that are fine-tuned: whole, cut, published, static, random."""

import importlib
import importlib.util
import pathlib
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments.finetune_encoder.data import Data
from experiments.frame import encoders, onnx
from kdjax import nets, training
from kdjax.nets import Outputs

WHOLE = "whole"  # the encoder of the table of methods
STATIC = "wordllama"  # a package whose wheel has the weights
WEIGHTS = "weights/l2_supercat_256.safetensors"
STATIC_TOKENS = "tokenizers/l2_supercat_tokenizer_config.json"
# Without any package: random weights, and tokens by a hash of words.
TINY = "tiny"
TINY_CONFIG = nets.TextEncoderConfig(
  256, width=16, depth=2, num_heads=2, inner_width=16, max_length=32
)


class Encoder(NamedTuple):
  """An encoder with a head, and the sentences in its tokens."""

  name: str
  title: str  # in the report
  network: training.Network
  variables: training.Variables | None  # None: random weights, by seed
  tokens: dict[str, np.ndarray]  # part -> `[n, length]`
  groups: list[str]  # expressions for the layers, from the input to the head
  width: int  # of the embedding


class Classifier(nnx.Module):
  """An encoder of sentences and a linear head on its embeddings."""

  def __init__(self, body: Any, width: int, classes: int, rngs: nnx.Rngs):
    self.body = body
    self.head: Any = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, inputs: Any) -> Outputs:
    """Returns the outputs of the encoder with the logits of the head."""
    outputs = self.body(inputs)
    return outputs._replace(
      logits=self.head(outputs.embedding),
      classifier=(self.head.kernel[...], self.head.bias[...]),
    )


class StaticEncoder(nnx.Module):
  """A table of token embeddings, whose mean embeds a sentence."""

  def __init__(self, vocab_size: int, width: int, rngs: nnx.Rngs):
    start = nnx.initializers.normal(0.02)
    self.tokens = nnx.Param(start(rngs.params(), (vocab_size, width)))

  def __call__(self, inputs: Any) -> Outputs:
    """Returns the rows of the tokens, and their mean as the embedding."""
    rows = self.tokens[...][inputs["tokens"]]
    valid = inputs["attention_mask"].astype(rows.dtype)[..., None]
    total = jax.numpy.maximum(valid.sum(1), 1.0)
    mean = (rows * valid).sum(1) / total
    logits: Any = None
    return Outputs(logits, {"f0": rows * valid}, mean)


class HashedWords:
  """Tokens by a hash of words, as a tokenizer of the package tokenizers."""

  def __call__(self, sentences: Sequence[str], length: int) -> list[list[int]]:
    """The tokens of sentences; 0 is padding."""
    rows = [re.findall(r"\w+", x.lower())[:length] for x in sentences]
    sizes = TINY_CONFIG.vocab_size - 1
    return [[1 + zlib.crc32(x.encode()) % sizes for x in row] for row in rows]


def load_encoders(config: Any, data: Data) -> dict[str, Encoder]:
  """Reads all encoders of the flags; that of the methods is the first."""
  classes = config.classes
  if config.encoder == TINY:
    whole = nets.TextEncoder(TINY_CONFIG, rngs=nnx.Rngs(config.seed))
    title, padding = "random tiny encoder", 0
    tokenize: Any = HashedWords()
  else:
    folder = encoders.find_folder(config.encoder, "encoder")
    whole = encoders.read(folder, "encoder")
    tokenizer = encoders.read_tokenizer(folder)
    padding = encoders.padding_of(tokenizer)
    tokenize = tokenize_by(tokenizer)
    title = "MiniLM-L6" if config.encoder is None else folder.name
  encoders.expect_length(config, whole, "encoder")
  depth = whole.config.depth
  known, tokens = read_tokens(config, data, tokenize, padding)
  few = encoders.with_tokens(whole, known)
  found = {WHOLE: of_encoder(WHOLE, title, few, tokens, classes)}
  for name in config.teachers:
    if name == "random":
      found[name] = as_random(found[WHOLE])
    elif name == "paraphrase":
      found[name] = read_paraphrase(config, data)
    elif name == "static":
      found[name] = read_static(config, data)
    else:
      count = int(name.removeprefix("cut_"))
      if count >= depth:
        raise ValueError(
          f"teachers has {name}; expected cuts of fewer than {depth} layers, "
          "those of the encoder."
        )
      layers = "layer" if count == 1 else "layers"
      found[name] = of_encoder(
        name,
        f"{title}, {count} {layers}",
        encoders.cut(few, count),
        tokens,
        classes,
      )
  return found


def as_random(encoder: Encoder) -> Encoder:
  """The same network with random weights, by seed."""
  return encoder._replace(name="random", title="random weights", variables=None)


def tokenize_by(tokenizer: Any) -> Any:
  """A function of sentences and a length that gives lists of tokens."""
  return lambda sentences, length: encoders.encode(tokenizer, sentences, length)


def read_tokens(
  config: Any, data: Data, tokenize: Any, padding: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """The tokens that the sentences have, and each part by their places."""
  parts = {
    name: tokenize(getattr(data, name).texts, config.max_length)
    for name in ("source", "pool", "validation", "test")
  }
  known = encoders.known_tokens(padding, *parts.values())
  length = config.max_length
  return known, {
    name: encoders.number(rows, known, length) for name, rows in parts.items()
  }


def of_encoder(
  name: str,
  title: str,
  body: nets.TextEncoder,
  tokens: dict[str, np.ndarray],
  classes: int,
) -> Encoder:
  """An encoder of blocks; its embeddings of tokens are its first layer."""
  width, form = body.config.width, body.config

  def build(rngs: nnx.Rngs) -> nnx.Module:
    return Classifier(nets.TextEncoder(form, rngs=rngs), width, classes, rngs)

  whole = Classifier(body, width, classes, nnx.Rngs(0))
  blocks = [f"^student/body/blocks/{i}/" for i in range(form.depth)]
  groups = ["^student/body/(tokens|positions|types|norm)", *blocks]
  return Encoder(
    name,
    title,
    training.Network.of(build, preprocess=encoders.with_mask),
    training.from_nnx(whole).variables,
    tokens,
    [*groups, "^student/head/"],
    width,
  )


def read_paraphrase(config: Any, data: Data) -> Encoder:
  """The published encoder of three layers, whose tokens are MiniLM's."""
  file = onnx.find_published()
  if file is None:
    raise ValueError(missing("paraphrase", onnx.PACKAGE))
  tokenizer = encoders.read_tokenizer(encoders.find_folder(None, "encoder"))
  padding = encoders.padding_of(tokenizer)
  known, tokens = read_tokens(config, data, tokenize_by(tokenizer), padding)
  body = encoders.with_tokens(onnx.read_published(file), known)
  return of_encoder("paraphrase", onnx.NAME, body, tokens, config.classes)


def read_static(config: Any, data: Data) -> Encoder:
  """The table of wordllama, which its wheel has, without importing it."""
  place = importlib.util.find_spec(STATIC)
  if place is None or place.origin is None:
    raise ValueError(missing("static", STATIC))
  folder = pathlib.Path(place.origin).parent
  try:
    tokenizers = importlib.import_module("tokenizers")
    safetensors = importlib.import_module("safetensors.numpy")
  except ModuleNotFoundError as error:
    raise ValueError(f"{error}: {encoders.INSTALL}.") from None
  table = safetensors.load_file(folder / WEIGHTS)["embedding.weight"]
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / STATIC_TOKENS))

  def tokenize(sentences: Sequence[str], length: int) -> list[list[int]]:
    tokenizer.enable_truncation(length)
    rows = tokenizer.encode_batch(list(sentences), add_special_tokens=False)
    return [row.ids for row in rows]

  known, tokens = read_tokens(config, data, tokenize, 0)
  size, width = len(known), table.shape[1]

  def build(rngs: nnx.Rngs) -> nnx.Module:
    body = StaticEncoder(size, width, rngs)
    return Classifier(body, width, config.classes, rngs)

  module: Any = build(nnx.Rngs(0))
  module.body.tokens.set_value(np.asarray(table[known], np.float32))
  return Encoder(
    "static",
    f"{STATIC}, static",
    training.Network.of(build, preprocess=encoders.with_mask),
    training.from_nnx(module).variables,
    tokens,
    ["^student/body/", "^student/head/"],
    width,
  )


def missing(teacher: str, package: str) -> str:
  """Says how to get a teacher's package, or to go on without it."""
  return (
    f"teachers has {teacher}, and the package {package} is not installed: "
    f"{encoders.INSTALL}, or leave it out of --teachers."
  )


def size_of(encoder: Encoder) -> int:
  """The number of parameters in training, without the head."""
  draw = jax.eval_shape(encoder.network.init, jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(draw.params["body"]))
