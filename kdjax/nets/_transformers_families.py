"""Families of `transformers`: their configurations, and the keys of weights."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flax import nnx

from kdjax.nets._decoder import Decoder
from kdjax.nets._decoder import DecoderConfig
from kdjax.nets._text_encoder import TextEncoder
from kdjax.nets._text_encoder import TextEncoderConfig

_ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "relu": "relu",
  "silu": "silu",
}


class Entry(NamedTuple):
  """A tensor of a file, and the variables that hold its columns.

  Attributes:
    key: of the tensor.
    variables: side by side along the last axis, after the transposition.
    transposed: whether the file has `[outputs, inputs]`.
  """

  key: str
  variables: tuple[Any, ...]
  transposed: bool = False


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
  return _llama_entries(model)


def _activation(name: str) -> str:
  if name not in _ACTIVATIONS:
    raise ValueError(
      f"config.json has the activation {name!r}; expected one of "
      f"{', '.join(_ACTIVATIONS)}."
    )
  return _ACTIVATIONS[name]


def _require(config: Mapping[str, Any], **expected: Any) -> None:
  """Raises ValueError unless the given entries have the only known value."""
  for name, value in expected.items():
    if config.get(name, value) != value:
      raise ValueError(
        f"config.json has {name} {config[name]!r}; expected {value!r}."
      )


# BERT and MiniLM


def _read_bert(
  config: Mapping[str, Any], keys: frozenset[str]
) -> TextEncoderConfig:
  _require(
    config,
    position_embedding_type="absolute",
    is_decoder=False,
    add_cross_attention=False,
  )
  head, classes = "none", 2
  if "cls.predictions.bias" in keys:
    head = "mlm"
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
    activation=_activation(config.get("hidden_act", "gelu")),
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
    "hidden_act": _hugging_face(config.activation, "gelu_new"),
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
  yield from _norm("embeddings.LayerNorm", model.norm)
  for i, block in enumerate(model.blocks):
    at = f"encoder.layer.{i}"
    for name in ("query", "key", "value"):
      yield from _dense(
        f"{at}.attention.self.{name}", getattr(block.attention, name)
      )
    yield from _dense(f"{at}.attention.output.dense", block.attention.output)
    yield from _norm(f"{at}.attention.output.LayerNorm", block.norm1)
    yield from _dense(f"{at}.intermediate.dense", block.expand)
    yield from _dense(f"{at}.output.dense", block.contract)
    yield from _norm(f"{at}.output.LayerNorm", block.norm2)
  if model.config.pooler:
    yield from _dense("pooler.dense", model.pooler)
  if model.config.head == "mlm":
    yield from _dense("cls.predictions.transform.dense", model.transform)
    yield from _norm(
      "cls.predictions.transform.LayerNorm", model.transform_norm
    )
    yield Entry("cls.predictions.bias", (model.bias,))
  elif model.config.head == "classifier":
    yield from _dense("classifier", model.classifier)


# GPT-2


def _read_gpt2(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  del keys
  _require(
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
    activation=_activation(config.get("activation_function", "gelu_new")),
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
    "activation_function": _hugging_face(config.activation, "gelu_new"),
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
    yield from _norm(f"h.{i}.ln_1", block.norm1)
    yield Entry(f"h.{i}.attn.c_attn.weight", tuple(x.kernel for x in parts))
    yield Entry(f"h.{i}.attn.c_attn.bias", tuple(x.bias for x in parts))
    for name, layer in (
      ("attn.c_proj", attention.output),
      ("mlp.c_fc", block.expand),
      ("mlp.c_proj", block.contract),
    ):
      yield Entry(f"h.{i}.{name}.weight", (layer.kernel,))
      yield Entry(f"h.{i}.{name}.bias", (layer.bias,))
    yield from _norm(f"h.{i}.ln_2", block.norm2)
  yield from _norm("ln_f", model.norm)


# Llama, Qwen and Gemma


def _read_llama(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  del keys
  _require(config, mlp_bias=False)
  bias = config.get("attention_bias", False)
  theta, scaling = _read_rotary(config)
  return DecoderConfig(
    vocab_size=config["vocab_size"],
    width=config["hidden_size"],
    depth=config["num_hidden_layers"],
    num_heads=config["num_attention_heads"],
    inner_width=config["intermediate_size"],
    key_heads=config.get("num_key_value_heads"),
    head_width=config.get("head_dim"),
    max_length=config["max_position_embeddings"],
    norm_epsilon=config.get("rms_norm_eps", 1e-6),
    rotary_theta=theta,
    rotary_scaling=scaling,
    activation=_activation(config.get("hidden_act", "silu")),
    query_bias=bias,
    output_bias=bias,
    tied_head=config.get("tie_word_embeddings", False),
    **_read_windows(config),
  )


def _read_qwen2(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  return dataclasses.replace(_read_llama(config, keys), query_bias=True)


def _read_qwen3(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  # The default of the family is a head of 128 units, whatever the width.
  own = {"head_dim": 128} | dict(config)
  return dataclasses.replace(_read_llama(own, keys), query_norm=True)


def _read_gemma2(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  # None is a value of the caps: none.
  caps = {
    "attention_softcap": config.get("attn_logit_softcapping", 50.0),
    "logit_softcap": config.get("final_logit_softcapping", 30.0),
  }
  config = {
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh"),
    "layer_types": [
      "full_attention" if i % 2 else "sliding_attention"
      for i in range(config["num_hidden_layers"])
    ],
    "use_sliding_window": True,
  } | {k: v for k, v in config.items() if k != "hidden_act" and v is not None}
  return dataclasses.replace(
    _read_llama(config, keys),
    head_width=config.get("head_dim", 256),
    norm_offset=True,
    post_norms=True,
    attention_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
    embedding_scale=config["hidden_size"] ** 0.5,
    **caps,
  )


def _read_rotary(
  config: Mapping[str, Any],
) -> tuple[float, tuple[Any, ...] | None]:
  rotary = dict(config.get("rope_scaling") or {})
  rotary |= config.get("rope_parameters") or {}
  theta = rotary.get("rope_theta", config.get("rope_theta", 10000.0))
  kind = rotary.get("rope_type", rotary.get("type", "default"))
  if kind == "default":
    return float(theta), None
  if kind == "linear":
    return float(theta), ("linear", float(rotary["factor"]))
  if kind == "llama3":
    return float(theta), (
      "llama3",
      float(rotary["factor"]),
      float(rotary["low_freq_factor"]),
      float(rotary["high_freq_factor"]),
      int(rotary["original_max_position_embeddings"]),
    )
  raise ValueError(
    f"config.json has rotary positions of type {kind!r}; expected 'default', "
    "'linear' or 'llama3'."
  )


def _read_windows(config: Mapping[str, Any]) -> dict[str, Any]:
  window, depth = config.get("sliding_window"), config["num_hidden_layers"]
  if window is None or not config.get("use_sliding_window", False):
    return {}
  kinds = config.get("layer_types")
  if kinds is None:
    first = config.get("max_window_layers", 0)
    windowed = tuple(i >= first for i in range(depth))
  else:
    windowed = tuple(kind == "sliding_attention" for kind in kinds)
  return {"window": window, "windowed": windowed} if any(windowed) else {}


def _write_llama(config: DecoderConfig) -> dict[str, Any]:
  head_width = config.head_width or config.width // config.num_heads
  rotary: dict[str, Any] = {"rope_type": "default"}
  if config.rotary_scaling is not None:
    kind, factor, *rest = config.rotary_scaling
    names = (
      "low_freq_factor",
      "high_freq_factor",
      "original_max_position_embeddings",
    )
    rotary = {"rope_type": kind, "factor": factor}
    rotary |= dict(zip(names, rest, strict=False))
  rotary["rope_theta"] = config.rotary_theta
  return {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.depth,
    "num_attention_heads": config.num_heads,
    "intermediate_size": config.inner_width,
    "num_key_value_heads": config.key_heads or config.num_heads,
    "head_dim": head_width,
    "max_position_embeddings": config.max_length,
    "rms_norm_eps": config.norm_epsilon,
    "rope_theta": config.rotary_theta,
    "rope_parameters": rotary,
    "hidden_act": _hugging_face(config.activation, "gelu_pytorch_tanh"),
    "attention_bias": config.output_bias,
    "attention_dropout": config.dropout,
    "tie_word_embeddings": config.tied_head,
  }


def _write_qwen(name: str) -> Callable[[DecoderConfig], dict[str, Any]]:
  def write(config: DecoderConfig) -> dict[str, Any]:
    windowed = config.windowed or (False,) * config.depth
    return _write_llama(config) | {
      "model_type": name.lower(),
      "architectures": [f"{name}ForCausalLM"],
      "use_sliding_window": any(windowed),
      "sliding_window": config.window,
      "layer_types": _layer_types(windowed),
    }

  return write


def _write_gemma2(config: DecoderConfig) -> dict[str, Any]:
  head_width = config.head_width or config.width // config.num_heads
  scale = config.attention_scale or head_width**-0.5
  result = _write_llama(config) | {
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "query_pre_attn_scalar": _whole(scale**-2),
    "attn_logit_softcapping": config.attention_softcap,
    "final_logit_softcapping": config.logit_softcap,
    "sliding_window": config.window,
    "layer_types": _layer_types(config.windowed or (False,) * config.depth),
  }
  result["hidden_activation"] = result.pop("hidden_act")
  return result


def _layer_types(windowed: tuple[bool, ...]) -> list[str]:
  return ["sliding_attention" if x else "full_attention" for x in windowed]


def _whole(x: float) -> float | int:
  return round(x) if abs(x - round(x)) < 1e-6 * x else x


def _llama_entries(model: Decoder) -> Iterator[Entry]:
  config = model.config
  yield Entry("embed_tokens.weight", (model.tokens,))
  for i, block in enumerate(model.blocks):
    at = f"layers.{i}"
    for name, part in (
      ("q", "query"),
      ("k", "key"),
      ("v", "value"),
      ("o", "output"),
    ):
      yield from _dense(
        f"{at}.self_attn.{name}_proj", getattr(block.attention, part)
      )
    if config.query_norm:
      yield from _norm(f"{at}.self_attn.q_norm", block.attention.query_norm)
      yield from _norm(f"{at}.self_attn.k_norm", block.attention.key_norm)
    yield from _norm(f"{at}.input_layernorm", block.norm1)
    before = "post_attention_layernorm"
    if config.post_norms:
      yield from _norm(f"{at}.{before}", block.post_norm1)
      yield from _norm(f"{at}.post_feedforward_layernorm", block.post_norm2)
      before = "pre_feedforward_layernorm"
    yield from _norm(f"{at}.{before}", block.norm2)
    if config.gated:
      yield from _dense(f"{at}.mlp.gate_proj", block.gate)
    yield from _dense(f"{at}.mlp.up_proj", block.expand)
    yield from _dense(f"{at}.mlp.down_proj", block.contract)
  yield from _norm("norm", model.norm)
  if not config.tied_head:
    yield Entry("lm_head.weight", (model.head_weight,))


def _hugging_face(activation: str, tanh: str) -> str:
  return tanh if activation == "gelu_tanh" else activation


def _dense(key: str, layer: nnx.Linear) -> Iterator[Entry]:
  yield Entry(f"{key}.weight", (layer.kernel,), transposed=True)
  if layer.bias is not None:
    yield Entry(f"{key}.bias", (layer.bias,))


def _norm(key: str, layer: Any) -> Iterator[Entry]:
  yield Entry(f"{key}.weight", (layer.scale,))
  if getattr(layer, "bias", None) is not None:
    yield Entry(f"{key}.bias", (layer.bias,))


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
    _read_llama, _write_llama, _llama_entries, "model.", (".inv_freq",)
  ),
  "qwen2": Family(_read_qwen2, _write_qwen("Qwen2"), _llama_entries, "model."),
  "qwen3": Family(_read_qwen3, _write_qwen("Qwen3"), _llama_entries, "model."),
  "gemma2": Family(_read_gemma2, _write_gemma2, _llama_entries, "model."),
}
# Keys that stay outside of the prefix.
HEADS = ("cls.", "classifier.", "lm_head.")
