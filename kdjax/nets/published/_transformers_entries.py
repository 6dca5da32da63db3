"""Parts of all families of `transformers`: tensors of a file, activations."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flax import nnx

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


def activation(name: str) -> str:
  """The activation of a network, by its name in config.json."""
  if name not in _ACTIVATIONS:
    raise ValueError(
      f"config.json has the activation {name!r}; expected one of "
      f"{', '.join(_ACTIVATIONS)}."
    )
  return _ACTIVATIONS[name]


def require(config: Mapping[str, Any], **expected: Any) -> None:
  """Raises ValueError unless the given entries have the only known value.

  An entry that is left out or null has it.
  """
  for name, value in expected.items():
    if config.get(name) not in (None, value):
      raise ValueError(
        f"config.json has {name} {config[name]!r}; expected {value!r}."
      )


def hugging_face(activation: str, tanh: str) -> str:
  """The name of an activation in config.json, `tanh` that of GELU by tanh."""
  return tanh if activation == "gelu_tanh" else activation


def dense_of(key: str, layer: nnx.Linear) -> Iterator[Entry]:
  """The tensors of a dense layer."""
  yield Entry(f"{key}.weight", (layer.kernel,), transposed=True)
  if layer.bias is not None:
    yield Entry(f"{key}.bias", (layer.bias,))


def norm_of(key: str, layer: Any) -> Iterator[Entry]:
  """The tensors of a normalization."""
  yield Entry(f"{key}.weight", (layer.scale,))
  if getattr(layer, "bias", None) is not None:
    yield Entry(f"{key}.bias", (layer.bias,))
