"""Families of `transformers`: their configurations, and the keys of weights."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flax import nnx

from kdjax.nets.published._transformers_entries import (
  Entry,
  activation,
  dense_of,
  hugging_face,
  norm_of,
  require,
)
from kdjax.nets.published._transformers_llama import (
  llama_entries,
  read_gemma2,
  read_llama,
  read_qwen2,
  read_qwen3,
  write_gemma2,
  write_llama,
  write_qwen,
)
from kdjax.nets.text._decoder import Decoder, DecoderConfig
from kdjax.nets.text._text_encoder import TextEncoder, TextEncoderConfig


class Family(NamedTuple):
  """A family of models.

  Attributes:
    read: makes a configuration from that of a folder, and the keys there.
    write: makes the configuration of a folder.
    entries: the tensors of a model, without a prefix.
    prefix: of the keys in models with a head.
    ignored: beginnings or ends of keys that hold nothing to learn.
  """

  read: Callable[[Mapping[str, Any], frozenset[str]], Any]
  write: Callable[[Any], dict[str, Any]]
  entries: Callable[[Any], Iterator[Entry]]
  prefix: str
  ignored: tuple[str, ...] = ()


def family_of(model: nnx.Module) -> str:
  """Returns the family that has exactly the form of a model.

  Raises:
    TypeError: if the model is no text network.
    ValueError: if no family has the form.
  """
  if not isinstance(model, Decoder | TextEncoder):
    raise TypeError(
      f"model is of type {type(model).__name__}; expected a Decoder or a "
      "TextEncoder."
    )
  keys = frozenset(e.key for e in _own_entries(model))
  config = dataclasses.replace(model.config, dropout=0.0)
  if isinstance(config, TextEncoderConfig):
    config = dataclasses.replace(config, pooling="first")
  for name, family in FAMILIES.items():
    try:
      again = family.read(family.write(config), keys)
    except (AttributeError, KeyError, TypeError, ValueError):
      continue
    if _normal(again) == _normal(config):
      return name
  raise ValueError(
    f"model has the form {model.config}; expected that of one of "
    f"{', '.join(FAMILIES)}."
  )


def _normal(config: Any) -> Any:
  """Returns a configuration with its defaults written out."""
  if not isinstance(config, DecoderConfig):
    return config
  head_width = config.head_width or config.width // config.num_heads
  return dataclasses.replace(
    config,
    key_heads=config.key_heads or config.num_heads,
    head_width=head_width,
    attention_scale=config.attention_scale or head_width**-0.5,
    windowed=config.windowed
    if config.windowed is not None and any(config.windowed)
    else None,
    window=config.window
    if config.windowed is not None and any(config.windowed)
    else None,
  )


def _own_entries(model: Any) -> Iterator[Entry]:
  if isinstance(model, TextEncoder):
    return _bert_entries(model)
  if model.config.positions == "learned":
    return _gpt2_entries(model)
  return llama_entries(model)


# BERT and MiniLM


def _read_bert(
  config: Mapping[str, Any], keys: frozenset[str]
) -> TextEncoderConfig:
  require(
    config,
    position_embedding_type="absolute",
    is_decoder=False,
    add_cross_attention=False,
  )
  head, classes = "none", 2
  if "cls.predictions.bias" in keys:
    head = "mlm"
    require(config, tie_word_embeddings=True)
  elif "classifier.weight" in keys:
    head = "classifier"
    classes = config.get("num_labels") or len(config.get("id2label") or "ab")
  return TextEncoderConfig(
    vocab_size=config["vocab_size"],
    width=config["hidden_size"],
    depth=config["num_hidden_layers"],
    num_heads=config["num_attention_heads"],
    inner_width=config["intermediate_size"],
    max_length=config["max_position_embeddings"],
    type_vocab_size=config.get("type_vocab_size", 2),
    norm_epsilon=config.get("layer_norm_eps", 1e-12),
    activation=activation(config.get("hidden_act", "gelu")),
    pooling="first",
    head=head,
    num_classes=classes,
    pooler="pooler.dense.weight" in keys,
  )


def _write_bert(config: TextEncoderConfig) -> dict[str, Any]:
  names = {
    "none": "BertModel",
    "mlm": "BertForMaskedLM",
    "classifier": "BertForSequenceClassification",
  }
  return {
    "model_type": "bert",
    "architectures": [names[config.head]],
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.depth,
    "num_attention_heads": config.num_heads,
    "intermediate_size": config.inner_width,
    "max_position_embeddings": config.max_length,
    "type_vocab_size": config.type_vocab_size,
    "layer_norm_eps": config.norm_epsilon,
    "hidden_act": hugging_face(config.activation, "gelu_new"),
    "hidden_dropout_prob": config.dropout,
    "attention_probs_dropout_prob": config.dropout,
    "id2label": {str(i): f"LABEL_{i}" for i in range(config.num_classes)},
    "label2id": {f"LABEL_{i}": i for i in range(config.num_classes)},
  }


def _bert_entries(model: TextEncoder) -> Iterator[Entry]:
  for name in ("word", "position", "token_type"):
    own = {"word": "tokens", "position": "positions", "token_type": "types"}
    yield Entry(
      f"embeddings.{name}_embeddings.weight", (getattr(model, own[name]),)
    )
  yield from norm_of("embeddings.LayerNorm", model.norm)
  for i, block in enumerate(model.blocks):
    at = f"encoder.layer.{i}"
    for name in ("query", "key", "value"):
      yield from dense_of(
        f"{at}.attention.self.{name}", getattr(block.attention, name)
      )
    yield from dense_of(f"{at}.attention.output.dense", block.attention.output)
    yield from norm_of(f"{at}.attention.output.LayerNorm", block.norm1)
    yield from dense_of(f"{at}.intermediate.dense", block.expand)
    yield from dense_of(f"{at}.output.dense", block.contract)
    yield from norm_of(f"{at}.output.LayerNorm", block.norm2)
  if model.config.pooler:
    yield from dense_of("pooler.dense", model.pooler)
  if model.config.head == "mlm":
    yield from dense_of("cls.predictions.transform.dense", model.transform)
    yield from norm_of(
      "cls.predictions.transform.LayerNorm", model.transform_norm
    )
    yield Entry("cls.predictions.bias", (model.bias,))
  elif model.config.head == "classifier":
    yield from dense_of("classifier", model.classifier)


# GPT-2


def _read_gpt2(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  del keys
  require(
    config,
    scale_attn_weights=True,
    scale_attn_by_inverse_layer_idx=False,
    add_cross_attention=False,
    tie_word_embeddings=True,
  )
  return DecoderConfig(
    vocab_size=config["vocab_size"],
    width=config["n_embd"],
    depth=config["n_layer"],
    num_heads=config["n_head"],
    inner_width=config.get("n_inner") or 4 * config["n_embd"],
    max_length=config["n_positions"],
    norm="layer",
    norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
    positions="learned",
    activation=activation(config.get("activation_function", "gelu_new")),
    gated=False,
    query_bias=True,
    output_bias=True,
    inner_bias=True,
    tied_head=True,
  )


def _write_gpt2(config: DecoderConfig) -> dict[str, Any]:
  return {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": config.vocab_size,
    "n_embd": config.width,
    "n_layer": config.depth,
    "n_head": config.num_heads,
    "n_inner": config.inner_width,
    "n_positions": config.max_length,
    "n_ctx": config.max_length,
    "layer_norm_epsilon": config.norm_epsilon,
    "activation_function": hugging_face(config.activation, "gelu_new"),
    "resid_pdrop": config.dropout,
    "embd_pdrop": config.dropout,
    "attn_pdrop": config.dropout,
  }


def _gpt2_entries(model: Decoder) -> Iterator[Entry]:
  yield Entry("wte.weight", (model.tokens,))
  yield Entry("wpe.weight", (model.positions,))
  for i, block in enumerate(model.blocks):
    attention = block.attention
    parts = (attention.query, attention.key, attention.value)
    yield from norm_of(f"h.{i}.ln_1", block.norm1)
    yield Entry(f"h.{i}.attn.c_attn.weight", tuple(x.kernel for x in parts))
    yield Entry(f"h.{i}.attn.c_attn.bias", tuple(x.bias for x in parts))
    for name, layer in (
      ("attn.c_proj", attention.output),
      ("mlp.c_fc", block.expand),
      ("mlp.c_proj", block.contract),
    ):
      yield Entry(f"h.{i}.{name}.weight", (layer.kernel,))
      yield Entry(f"h.{i}.{name}.bias", (layer.bias,))
    yield from norm_of(f"h.{i}.ln_2", block.norm2)
  yield from norm_of("ln_f", model.norm)


FAMILIES = {
  "bert": Family(
    _read_bert,
    _write_bert,
    _bert_entries,
    "bert.",
    ("cls.seq_relationship.", "cls.predictions.decoder.", ".position_ids"),
  ),
  "gpt2": Family(
    _read_gpt2,
    _write_gpt2,
    _gpt2_entries,
    "transformer.",
    ("lm_head.weight", ".attn.bias", ".attn.masked_bias"),
  ),
  "llama": Family(
    read_llama, write_llama, llama_entries, "model.", (".inv_freq",)
  ),
  "qwen2": Family(read_qwen2, write_qwen("Qwen2"), llama_entries, "model."),
  "qwen3": Family(read_qwen3, write_qwen("Qwen3"), llama_entries, "model."),
  "gemma2": Family(read_gemma2, write_gemma2, llama_entries, "model."),
}
# Keys that stay outside of the prefix.
HEADS = ("cls.", "classifier.", "lm_head.")
