"""Parameters of text networks over the devices of a mesh."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax.nets._copy_paste import parameters_of

M = TypeVar("M", bound=nnx.Module)
Rules = Sequence[tuple[str, PartitionSpec]]
# The first pattern that is found in a path counts. Columns of the layers that
# read a hidden state, rows of those that write one, and the vocabulary.
SHARDING_RULES: Rules = (
  (r"(query|key|value|gate|expand)\.kernel$", PartitionSpec(None, "model")),
  (r"(query|key|value|gate|expand)\.bias$", PartitionSpec("model")),
  (r"(output|contract)\.kernel$", PartitionSpec("model", None)),
  (r"^(tokens|head_weight)$", PartitionSpec("model", None)),
)


def shard_parameters(model: M, mesh: Mesh, rules: Rules = SHARDING_RULES) -> M:
  """Distributes the parameters of a network over a mesh.

  Args:
    model: an NNX module, changed in place.
    mesh: the mesh, with the axes that the rules name.
    rules: pairs of a regular expression and a `PartitionSpec`; the first
      expression found in the path of a parameter, such as
      `blocks.0.attention.query.kernel`, sets its axes. A parameter without a
      rule is replicated, and so is an axis that the mesh does not divide.

  Returns:
    The model. `jax.jit` computes with it over the mesh, with the same results
    but for rounding. Over Explicit axes, the default of `jax.make_mesh`, the
    outputs of networks of text are sharded over the batch and the tables alone;
    over Auto axes the compiler chooses.

  Raises:
    ValueError: if a rule has more axes than a parameter, or names an axis that
      the mesh does not have.

  Examples:
    >>> from kdjax.nets import Decoder, DecoderConfig
    >>> config = DecoderConfig(8, width=4, depth=1, num_heads=2, inner_width=4)
    >>> mesh = jax.make_mesh((1,), ("model",))
    >>> model = shard_parameters(Decoder(config, rngs=nnx.Rngs(0)), mesh)
    >>> tuple(model.tokens[...].sharding.spec)
    ('model', None)
    >>> run = jax.jit(lambda model, tokens: model(tokens).logits)
    >>> run(model, jax.numpy.array([[1, 2, 3]])).shape
    (1, 3, 8)

  References:
    Shoeybi et al., `Megatron-LM <https://arxiv.org/abs/1909.08053>`_, 2019.
  """
  for name, variable in parameters_of(model):
    value = variable[...]
    spec = next((s for pattern, s in rules if re.search(pattern, name)), None)
    axes = tuple(spec or ())
    if len(axes) > value.ndim:
      raise ValueError(
        f"rules has {spec} for {name} of shape {value.shape}; expected at most "
        f"{value.ndim} axes."
      )
    kept = [
      axis if size % _devices(mesh, axis) == 0 else None
      for axis, size in zip(axes, value.shape, strict=False)
    ]
    placed = NamedSharding(mesh, PartitionSpec(*kept))
    variable.set_value(jax.device_put(value, placed))
  return model


def _devices(mesh: Mesh, axis: Any) -> int:
  """Returns the number of devices of an axis, or of a tuple of axes."""
  devices = 1
  for name in axis if isinstance(axis, tuple) else (axis,):
    if name is not None and name not in mesh.shape:
      raise ValueError(
        f"rules names the axis {name!r}; expected one of the mesh, "
        f"{tuple(mesh.shape)}."
      )
    devices *= 1 if name is None else mesh.shape[name]
  return devices
