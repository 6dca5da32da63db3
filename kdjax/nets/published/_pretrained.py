"""Text networks from and to local folders of `transformers`."""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from kdjax.nets.published._transformers_entries import Entry
from kdjax.nets.published._transformers_families import (
  FAMILIES,
  HEADS,
  Family,
  family_of,
)
from kdjax.nets.text._decoder import Decoder
from kdjax.nets.text._text_encoder import TextEncoder, TextEncoderConfig

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_POOLING = pathlib.Path("1_Pooling", "config.json")
# The entries of sentence-transformers, and one for a pooling it does not have.
_POOLINGS = {
  "pooling_mode_mean_tokens": "mean",
  "pooling_mode_cls_token": "first",
  "pooling_mode_pooler": "pooler",
}
# An error about the weights of another network lists only so many keys.
_SHOWN = 5


def from_pretrained(
  folder: str | os.PathLike[str],
  *,
  dtype: DTypeLike = jnp.float32,
  param_dtype: DTypeLike = jnp.float32,
  rngs: nnx.Rngs | None = None,
  **changes: Any,
) -> Decoder | TextEncoder:
  """Reads a text network from a local folder of `transformers`.

  The families are BERT (with MiniLM), GPT-2, Llama, Qwen2, Qwen3 and Gemma 2.
  The folder has `config.json` and `model.safetensors`, or its shards and their
  index. The file of a sentence encoder's pooling, `1_Pooling/config.json`, sets
  the pooling.

  Args:
    folder: the folder.
    dtype: the dtype in which the body computes.
    param_dtype: the dtype of the parameters, whatever the file's is.
    rngs: random streams for dropout, and for a head that the folder does not
      have.
    **changes: other values of fields of the configuration, such as
      `dropout=0.1`, `pooling="mean"`, or `head="classifier", num_classes=5,
      pooler=True` for a new classifier.

  Returns:
    A `TextEncoder` or a `Decoder`. `logits` and hidden states are those of
    `transformers`.

  Raises:
    FileNotFoundError: if the folder has no configuration or no safetensors, or
      a shard is missing.
    ValueError: if the family or its form is not known, keys or shapes do not
      fit the configuration, or a file is damaged or not UTF-8.
    ModuleNotFoundError: if safetensors is not installed.

  Examples:
    >>> from_pretrained("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: no/such/folder has no config.json; expected a folder ...

  References:
    Wolf et al., `Transformers: state-of-the-art natural language processing
    <https://arxiv.org/abs/1910.03771>`_, 2020.
  """
  folder = pathlib.Path(folder)
  if not (folder / "config.json").is_file():
    raise FileNotFoundError(
      f"{folder} has no config.json; expected a folder with config.json and "
      f"{_WHOLE}, as transformers' save_pretrained writes it."
    )
  settings = _read_json(folder / "config.json")
  name = settings.get("model_type")
  if name not in FAMILIES:
    raise ValueError(
      f"{folder} has a model of type {name!r}; expected one of "
      f"{', '.join(FAMILIES)}."
    )
  if settings.get("quantization_config"):
    raise ValueError(
      f"{folder} has quantized weights; expected a folder without an entry "
      "quantization_config in config.json."
    )
  family = FAMILIES[name]
  tensors = _Tensors(folder, family)
  try:
    config = family.read(settings, frozenset(tensors.places))
  except KeyError as error:
    raise ValueError(
      f"{folder / 'config.json'} has no entry {error}; expected this "
      f"entry for the family {name}."
    ) from None
  if isinstance(config, TextEncoderConfig):
    config = dataclasses.replace(config, pooling=_pooling(folder))
  config = dataclasses.replace(config, **changes)
  kind = TextEncoder if isinstance(config, TextEncoderConfig) else Decoder
  fresh = "head" in changes or "pooler" in changes

  def build() -> Decoder | TextEncoder:
    streams = nnx.Rngs(0) if rngs is None else rngs
    return kind(config, dtype=dtype, param_dtype=param_dtype, rngs=streams)

  # Without random numbers, if all values are replaced.
  random = fresh or config.dropout > 0
  model = build() if random else nnx.eval_shape(build)
  _assign(model, family, tensors, fresh)
  return model


def save_pretrained(
  model: nnx.Module,
  folder: str | os.PathLike[str],
  *,
  shard_bytes: int | None = None,
) -> None:
  """Writes a text network as a folder that `transformers` loads.

  All files are written under another name first. Then those of an earlier model
  in the folder are removed, its configuration first, and the new ones get their
  names, the configuration last: a full disk leaves the earlier model, and a
  write that is interrupted at the end a folder that does not load. Other files,
  such as those of a tokenizer, stay. The pooling of a `TextEncoder`, which
  configurations of `transformers` have no entry for, is written to
  `1_Pooling/config.json`.

  Args:
    model: a `Decoder` or a `TextEncoder` of the form of a known family.
    folder: the folder, which may exist.
    shard_bytes: the largest size of a file; None for a single file.

  Returns:
    None.

  Raises:
    TypeError: if the model is no text network.
    ValueError: if no family has its form.
    ModuleNotFoundError: if safetensors is not installed.

  Examples:
    >>> save_pretrained(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), "folder")
    Traceback (most recent call last):
    TypeError: model is of type Linear; expected a Decoder or a TextEncoder.

  References:
    Wolf et al., `Transformers: state-of-the-art natural language processing
    <https://arxiv.org/abs/1910.03771>`_, 2020.
  """
  family, folder = FAMILIES[family_of(model)], pathlib.Path(folder)
  config: Any = getattr(model, "config")  # noqa: B009
  _safetensors()
  tensors = {}
  bare = isinstance(model, TextEncoder) and config.head == "none"
  for entry in family.entries(model):
    value = np.concatenate([np.asarray(x[...]) for x in entry.variables], -1)
    key = entry.key
    if not bare and not key.startswith(HEADS):
      key = family.prefix + key
    tensors[key] = np.ascontiguousarray(value.T if entry.transposed else value)
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as name:
    place = pathlib.Path(name)
    _write_model(place, model, family, tensors, shard_bytes)
    _remove_model(folder)
    files = [x.relative_to(place) for x in place.rglob("*") if x.is_file()]
    for file in sorted(files, key=lambda x: x == pathlib.Path(_CONFIG)):
      (folder / file).parent.mkdir(exist_ok=True)
      os.replace(place / file, folder / file)


def _write_model(
  place: pathlib.Path,
  model: nnx.Module,
  family: Any,
  tensors: dict[str, np.ndarray],
  shard_bytes: int | None,
) -> None:
  """Writes the files of a model into an empty folder."""
  config: Any = getattr(model, "config")  # noqa: B009
  shards = _shards(tensors, shard_bytes)
  files = [_WHOLE]
  if len(shards) > 1:
    files = [
      f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
      for i in range(len(shards))
    ]
  for file, keys in zip(files, shards, strict=True):
    part = {key: tensors[key] for key in keys}
    _safetensors().flax.save_file(part, place / file, metadata={"format": "pt"})
  if len(shards) > 1:
    index = {
      "metadata": {"total_size": sum(x.nbytes for x in tensors.values())},
      "weight_map": {
        key: file
        for file, keys in zip(files, shards, strict=True)
        for key in keys
      },
    }
    _write_json(place / _INDEX, index)
  if isinstance(model, TextEncoder) and config.pooling != "first":
    file = place / _POOLING
    file.parent.mkdir()
    # A False for "pooler" would be an unknown entry to sentence-transformers.
    modes = {
      key: name == config.pooling
      for key, name in _POOLINGS.items()
      if name in ("mean", "first", config.pooling)
    }
    _write_json(file, {"word_embedding_dimension": config.width} | modes)
  dtype = str(next(iter(tensors.values())).dtype)
  _write_json(place / _CONFIG, family.write(config) | {"dtype": dtype})


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
  """Reads the tokenizer of a folder of `transformers`.

  Args:
    folder: the folder, with `tokenizer.json`.

  Returns:
    A `tokenizers.Tokenizer`.

  Raises:
    FileNotFoundError: if the folder has no `tokenizer.json`.
    ValueError: if the file is damaged or not UTF-8.
    ModuleNotFoundError: if the package tokenizers is not installed.

  Examples:
    >>> load_tokenizer("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: no/such/folder has no tokenizer.json; expected ...

  References:
    `tokenizers <https://github.com/huggingface/tokenizers>`_.
  """
  path = pathlib.Path(folder) / "tokenizer.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{pathlib.Path(folder)} has no tokenizer.json; expected this file, as "
      "transformers' save_pretrained writes it."
    )
  try:
    tokenizers = importlib.import_module("tokenizers")
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      'reading a tokenizer needs tokenizers: pip install "tokenizers".'
    ) from error
  _read_json(path)
  try:
    return tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the package raises no narrower one
    raise ValueError(
      f"{path} is no file of a tokenizer: {error}; expected what "
      "transformers' save_pretrained writes."
    ) from None


class _Tensors:
  """The tensors of a folder by their keys without prefix, read one by one."""

  def __init__(self, folder: pathlib.Path, family: Family):
    self._open = _safetensors().safe_open
    index = folder / _INDEX
    if (folder / _WHOLE).is_file():
      files = [folder / _WHOLE]
    elif index.is_file():
      names = _read_json(index).get("weight_map", {})
      if not names:
        raise ValueError(
          f"{index} names no shards; expected an entry weight_map with the "
          "file of each tensor."
        )
      files = [folder / name for name in sorted(set(names.values()))]
      for file in files:
        if not file.is_file():
          raise FileNotFoundError(
            f"{folder} has no {file.name}; expected it, as {_INDEX} says."
          )
    else:
      raise FileNotFoundError(
        f"{folder} has neither {_WHOLE} nor {_INDEX}; expected one of them. "
        "Weights in other formats are not read."
      )
    self.places: dict[str, tuple[pathlib.Path, str]] = {}
    for file in files:
      with self._opened(file) as opened:
        for key in opened.keys():  # noqa: SIM118
          own = key.removeprefix(family.prefix)
          own = own.replace(".gamma", ".weight").replace(".beta", ".bias")
          ignored = any(
            own.startswith(x) or own.endswith(x) for x in family.ignored
          )
          if not ignored:
            self.places[own] = file, key

  def _opened(self, file: pathlib.Path) -> Any:
    """Opens a file; all but its header is read later."""
    try:
      return self._open(file, framework="numpy")
    except Exception as error:  # SafetensorError is one of no narrower kind
      raise ValueError(
        f"{file} is damaged or has no safetensors: {error}; copy it again."
      ) from None

  def read(self) -> Iterator[tuple[str, Any]]:
    """Yields keys and arrays, file by file."""
    files: dict[pathlib.Path, dict[str, str]] = {}
    for own, (file, key) in self.places.items():
      files.setdefault(file, {})[own] = key
    for file, keys in files.items():
      with self._open(file, framework="flax") as opened:
        for own, key in keys.items():
          yield own, opened.get_tensor(key)


def _assign(model: Any, family: Family, tensors: _Tensors, fresh: bool) -> None:
  """Sets all variables, or raises ValueError about what does not fit."""
  entries = {entry.key: entry for entry in family.entries(model)}
  optional = (*HEADS, "pooler.") if fresh else ()
  values, problems, left = {}, [], []
  for key, tensor in tensors.read():
    entry = entries.get(key)
    if entry is None:
      if not key.startswith(optional or ("\0",)) and not _is_tied(model, key):
        left.append(f"{key} is left over, of shape {tuple(tensor.shape)}")
      continue
    expected = _shape(entry)
    if tuple(tensor.shape) != expected:
      if not key.startswith(optional or ("\0",)):
        problems.append(
          f"{key} has shape {tuple(tensor.shape)}; expected {expected}"
        )
      continue
    values[key] = tensor
  problems += [
    f"{key} is missing; expected shape {_shape(entry)}"
    for key, entry in entries.items()
    if key not in tensors.places and not key.startswith(optional or ("\0",))
  ]
  problems += left
  if problems:
    lines = problems[:_SHOWN]
    if more := len(problems) - len(lines):
      lines.append(f"... and {more} more.")
    raise ValueError(
      "\n  ".join(["the weights do not fit config.json:", *lines])
    )
  for key, tensor in values.items():
    entry = entries[key]
    value = tensor.T if entry.transposed else tensor
    sizes = np.cumsum([x.shape[-1] for x in entry.variables])[:-1]
    parts = jnp.split(jnp.asarray(value), sizes, -1)
    for variable, part in zip(entry.variables, parts, strict=True):
      variable.set_value(part.astype(variable.dtype))


def _is_tied(model: Any, key: str) -> bool:
  """Whether a key repeats the embedding."""
  return key == "lm_head.weight" and model.config.tied_head


def _shape(entry: Entry) -> tuple[int, ...]:
  *rest, _ = entry.variables[0].shape
  shape = (*rest, sum(x.shape[-1] for x in entry.variables))
  return shape[::-1] if entry.transposed else shape


def _pooling(folder: pathlib.Path) -> str:
  """Returns the pooling of a sentence encoder's folder; of others the first."""
  file = folder / _POOLING
  if not file.is_file():
    return "first"
  modes = _read_json(file)
  chosen = [
    key
    for key, value in modes.items()
    if key.startswith("pooling_mode_") and value is True
  ]
  if len(chosen) != 1 or chosen[0] not in _POOLINGS:
    raise ValueError(
      f"{file} has the poolings {chosen}; expected one of {sorted(_POOLINGS)}."
    )
  return _POOLINGS[chosen[0]]


def _remove_model(folder: pathlib.Path) -> None:
  """Removes an earlier model, its configuration first."""
  shards = [x for x in sorted(folder.iterdir()) if _SHARD.fullmatch(x.name)]
  for file in (
    folder / _CONFIG,
    folder / _INDEX,
    folder / _WHOLE,
    folder / _POOLING,
    *shards,
  ):
    file.unlink(missing_ok=True)


def _shards(
  tensors: Mapping[str, np.ndarray], shard_bytes: int | None
) -> list[list[str]]:
  shards: list[list[str]] = [[]]
  size = 0
  for key, tensor in tensors.items():
    if shard_bytes and shards[-1] and size + tensor.nbytes > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(key)
    size += tensor.nbytes
  return shards


def _read_json(file: pathlib.Path) -> dict[str, Any]:
  """Reads the object of a file, or raises ValueError that names the file."""
  try:
    content = json.loads(file.read_text(encoding="utf-8"))
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{file} is not UTF-8 (byte {error.start}); copy it again."
    ) from None
  except json.JSONDecodeError as error:
    raise ValueError(f"{file} is no JSON: {error}; copy it again.") from None
  if not isinstance(content, dict):
    raise ValueError(
      f"{file} has a JSON {type(content).__name__}; expected an object."
    )
  return content


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")


def _safetensors() -> Any:
  try:
    import safetensors
    import safetensors.flax
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      'reading weights needs safetensors: pip install "kdjax[experiments]".'
    ) from error
  return safetensors
