"""The networks: small ones of the flags' sizes, or of a user's folders."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.distill_lm.data import Tokenizer
from kdjax import language, nets, training
from kdjax.ops import padding_explains

# Files of transformers about text, beside the network and the tokenizer.
BESIDE = (
  "generation_config.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
)
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


class Language(NamedTuple):
  """A language model."""

  network: training.Network  # its logits are of the tokenizer's tokens
  config: nets.DecoderConfig
  # Of a user's folder: its files of BESIDE, and its entries of SPECIAL as JSON.
  files: tuple[tuple[str, bytes], ...] = ()
  special: str = "{}"

  def module(self, params: Any) -> nets.Decoder:
    """The module of these parameters."""
    graph, _ = nnx.split(nnx.eval_shape(self.build))
    return nnx.merge(graph, params)

  def writer(self, params: Any, size: int) -> nets.Decoder:
    """The module of `size` tokens: rows that pad the vocabulary are cut.

    The tokenizer has no text for their tokens, so none may be drawn.
    """
    if self.config.vocab_size == size:
      return self.module(params)
    few = self._replace(
      config=dataclasses.replace(self.config, vocab_size=size)
    )
    rows = ("tokens", "head_weight")
    return few.module(
      {k: x[:size] if k in rows else x for k, x in params.items()}
    )

  def build(self) -> nets.Decoder:
    """A module with random parameters."""
    return nets.Decoder(self.config, rngs=nnx.Rngs(0))


def make(config: Any, tokenizer: Tokenizer) -> tuple[Language, Language]:
  """The teacher and the student."""
  if config.teacher:
    folders = config.teacher, config.student
    teacher, student = (load(x, config, tokenizer) for x in folders)
    return teacher, student

  def create(depth: int) -> Language:
    # Llama's form, a multiple of 8 above 8 / 3 of the width inside.
    sizes = nets.DecoderConfig(
      tokenizer.size,
      width=config.width,
      depth=depth,
      num_heads=config.heads,
      inner_width=-(-8 * config.width // 24) * 8,
      max_length=config.length,
    )
    network = training.Network.of(lambda rngs: nets.Decoder(sizes, rngs=rngs))
    return Language(network, sizes)

  return create(config.teacher_depth), create(config.student_depth)


def load(folder: str, config: Any, tokenizer: Tokenizer) -> Language:
  """The decoder of a folder of transformers."""
  model = nets.from_pretrained(folder, dropout=0.0)
  if not isinstance(model, nets.Decoder):
    raise ValueError(
      f"{folder} has a {type(model).__name__}, which writes no text; expected "
      "a decoder: GPT-2, Llama, Qwen2, Qwen3 or Gemma 2."
    )
  rows, size = model.config.vocab_size, tokenizer.size
  # Rows for tokens that there are not make sizes round.
  if rows < size or not padding_explains(size, rows):
    raise ValueError(
      f"{folder} has a vocabulary of {rows} and its tokenizer {size} tokens, "
      "which no padding explains; expected as many, or a few more rows."
    )
  if config.length > model.config.max_length:
    raise ValueError(
      f"length is {config.length}; expected at most "
      f"{model.config.max_length}, the positions of {folder}."
    )
  forward, variables = training.from_nnx(model)
  network = training.Network(lambda key: variables, forward)
  if rows > size:
    network = network._replace(forward=without_padding(forward, size))
  place = pathlib.Path(folder)
  found = [place / x for x in BESIDE if (place / x).is_file()]
  settings = json.loads((place / "config.json").read_text(encoding="utf-8"))
  special = {key: settings[key] for key in SPECIAL if key in settings}
  return Language(
    network,
    model.config,
    tuple((x.name, x.read_bytes()) for x in found),
    json.dumps(special),
  )


def without_padding(forward: Any, size: int) -> Callable[..., Any]:
  """A forward whose logits are of the first classes alone."""

  def run(
    variables: Any, inputs: Any, *, train: bool, key: Any, axis_name: Any = None
  ) -> Any:
    outputs, state = forward(
      variables, inputs, train=train, key=key, axis_name=axis_name
    )
    kernel, bias = outputs.classifier
    return outputs._replace(
      logits=outputs.logits[..., :size],
      classifier=(kernel[:, :size], bias[:size]),
    ), state

  return run


def start(
  model: Language, keys: jax.Array, teacher: tuple[Language, Any] | None = None
) -> training.Variables:
  """Initial weights, `[keys, ...]`: random ones, or layers of the teacher."""
  # Network by network: to compile random numbers takes longer than to train.
  fresh = [model.network.init(key) for key in keys]
  if teacher:
    origin, params = teacher
    layers = language.layer_map(model.config.depth, origin.config.depth, "copy")
    widths = "first" if model.config.width != origin.config.width else None
    fresh = [
      x._replace(
        params=nets.copy_paste(params, x.params, layers=layers, widths=widths)
      )
      for x in fresh
    ]
  return jax.tree.map(lambda *x: jnp.stack(x), *fresh)


def save(
  model: Language,
  params: Any,
  folder: pathlib.Path,
  tokenizer: Tokenizer,
) -> None:
  """Writes a folder that transformers and this experiment load."""
  nets.save_pretrained(model.module(params), folder)
  if tokenizer.save:
    tokenizer.save(folder)
  for name, content in model.files:
    (folder / name).write_bytes(content)
  config = folder / "config.json"
  settings = json.loads(config.read_text()) | json.loads(model.special)
  config.write_text(json.dumps(settings, indent=2) + "\n")
