"""Llama, Qwen 2 and 3, and Gemma 2: configurations and the keys of weights."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdjax.nets.published._transformers_entries import (
  Entry,
  activation,
  dense_of,
  hugging_face,
  norm_of,
  require,
)
from kdjax.nets.text._decoder import Decoder, DecoderConfig

# The defaults of Qwen's windows.
_QWEN = {"sliding_window": 4096, "max_window_layers": 28}


def read_llama(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  del keys
  require(config, mlp_bias=False, partial_rotary_factor=1.0)
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
    activation=activation(config.get("hidden_act", "silu")),
    query_bias=bias,
    output_bias=bias,
    tied_head=config.get("tie_word_embeddings", False),
    **_read_windows(config),
  )


def read_qwen2(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  read = read_llama(_QWEN | dict(config), keys)
  return dataclasses.replace(read, query_bias=True)


def read_qwen3(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  # The default of the family is a head of 128 units, whatever the width.
  own = _QWEN | {"head_dim": 128} | dict(config)
  return dataclasses.replace(read_llama(own, keys), query_norm=True)


def read_gemma2(
  config: Mapping[str, Any], keys: frozenset[str]
) -> DecoderConfig:
  # None is a value of the caps: none.
  caps = {
    "attention_softcap": config.get("attn_logit_softcapping", 50.0),
    "logit_softcap": config.get("final_logit_softcapping", 30.0),
  }
  require(config, use_bidirectional_attention=False)
  config = {
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "hidden_act": config.get("hidden_activation") or "gelu_pytorch_tanh",
    "layer_types": [
      "full_attention" if i % 2 else "sliding_attention"
      for i in range(config["num_hidden_layers"])
    ],
    "use_sliding_window": True,
  } | {k: v for k, v in config.items() if k != "hidden_act" and v is not None}
  return dataclasses.replace(
    read_llama(config, keys),
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
  require(rotary, partial_rotary_factor=1.0)
  nested = [name for name, value in rotary.items() if isinstance(value, dict)]
  if nested:
    raise ValueError(
      f"config.json has rotary positions for each of {', '.join(nested)}; "
      "expected the same for all layers."
    )
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
      int(_original_length(config, rotary)),
    )
  raise ValueError(
    f"config.json has rotary positions of type {kind!r}; expected 'default', "
    "'linear' or 'llama3'."
  )


def _original_length(
  config: Mapping[str, Any], rotary: Mapping[str, Any]
) -> int:
  """Returns the length of the texts in training, as transformers finds it."""
  name = "original_max_position_embeddings"
  length = config.get(name) or rotary.get(name)
  return length or config["max_position_embeddings"]


def _read_windows(config: Mapping[str, Any]) -> dict[str, Any]:
  window, depth = config.get("sliding_window"), config["num_hidden_layers"]
  if window is None or not config.get("use_sliding_window", False):
    return {}
  kinds = config.get("layer_types")
  if kinds is None:
    first = config.get("max_window_layers", 0)
    windowed = tuple(i >= first for i in range(depth))
  else:
    known = {"sliding_attention": True, "full_attention": False}
    for kind in kinds:
      if kind not in known:
        raise ValueError(
          f"config.json has layer_types with {kind!r}; expected "
          f"{' or '.join(known)}."
        )
    windowed = tuple(known[kind] for kind in kinds)
  return {"window": window, "windowed": windowed} if any(windowed) else {}


def write_llama(config: DecoderConfig) -> dict[str, Any]:
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
  # Before version 5, transformers reads this entry and not rope_parameters.
  scaled = config.rotary_scaling is not None
  older = {"rope_scaling": dict(rotary)} if scaled else {}
  rotary["rope_theta"] = config.rotary_theta
  return older | {
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
    "hidden_act": hugging_face(config.activation, "gelu_pytorch_tanh"),
    "attention_bias": config.output_bias,
    "attention_dropout": config.dropout,
    "tie_word_embeddings": config.tied_head,
  }


def write_qwen(name: str) -> Callable[[DecoderConfig], dict[str, Any]]:
  def write(config: DecoderConfig) -> dict[str, Any]:
    windowed = config.windowed or (False,) * config.depth
    return write_llama(config) | {
      "model_type": name.lower(),
      "architectures": [f"{name}ForCausalLM"],
      "use_sliding_window": any(windowed),
      "sliding_window": config.window,
      "layer_types": _layer_types(windowed),
    }

  return write


def write_gemma2(config: DecoderConfig) -> dict[str, Any]:
  head_width = config.head_width or config.width // config.num_heads
  scale = config.attention_scale or head_width**-0.5
  result = write_llama(config) | {
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


def llama_entries(model: Decoder) -> Iterator[Entry]:
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
      yield from dense_of(
        f"{at}.self_attn.{name}_proj", getattr(block.attention, part)
      )
    if config.query_norm:
      yield from norm_of(f"{at}.self_attn.q_norm", block.attention.query_norm)
      yield from norm_of(f"{at}.self_attn.k_norm", block.attention.key_norm)
    yield from norm_of(f"{at}.input_layernorm", block.norm1)
    before = "post_attention_layernorm"
    if config.post_norms:
      yield from norm_of(f"{at}.{before}", block.post_norm1)
      yield from norm_of(f"{at}.post_feedforward_layernorm", block.post_norm2)
      before = "pre_feedforward_layernorm"
    yield from norm_of(f"{at}.{before}", block.norm2)
    if config.gated:
      yield from dense_of(f"{at}.mlp.gate_proj", block.gate)
    yield from dense_of(f"{at}.mlp.up_proj", block.expand)
    yield from dense_of(f"{at}.mlp.down_proj", block.contract)
  yield from norm_of("norm", model.norm)
  if not config.tied_head:
    yield Entry("lm_head.weight", (model.head_weight,))
