"""Networks of text over meshes with Explicit axes."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

from kdjax import ops
from kdjax.nets._outputs import Outputs


def over_any_mesh(
  function: Callable[[Any, Array, dict[str, Any]], Outputs],
  model: Any,
  tokens: Array,
  given: dict[str, Any],
) -> Outputs:
  """Runs a network; Explicit axes of a mesh are left to the compiler inside.

  Args:
    function: maps the network, the tokens and the other inputs to the outputs.
    model: the network, of which the random streams alone may change.
    tokens: `[batch, length]`.
    given: the other inputs by their names, None for those left out.

  Returns:
    The outputs. Over Explicit axes their batch is sharded as that of the tokens
    and the tables as their parameters; other dimensions are not sharded.
  """
  graph, state = nnx.split(model)
  mesh = ops.explicit_mesh((state, tokens, given))
  if mesh is None:
    return function(model, tokens, given)

  def run(state: Any, tokens: Array, given: Any) -> tuple[Outputs, Any]:
    model = nnx.merge(graph, state)
    return function(model, tokens, given), nnx.state(model, nnx.RngState)

  texts = PartitionSpec(*_partition(tokens)[:1])
  outputs: Any = Outputs._make([texts] * len(Outputs._fields))
  outputs = outputs._replace(
    token_embeddings=_partition(model.tokens[...]),
    logit_softcap=PartitionSpec(),
  )
  if hasattr(model, "head"):
    rows = _partition(model.head.weight)
    kernel = PartitionSpec(*reversed(rows))
    outputs = outputs._replace(classifier=(kernel, PartitionSpec()))
  if given.get("cache") is not None:
    parts = {"layers": texts, "mask": texts, "length": PartitionSpec()}
    outputs = outputs._replace(cache=given["cache"]._replace(**parts))
  result, streams = ops.in_auto_axes(
    run, (state, tokens, given), {}, mesh, (outputs, PartitionSpec())
  )
  nnx.update(model, streams)
  return result


def _partition(array: Any) -> PartitionSpec:
  return jax.typeof(array).sharding.spec
