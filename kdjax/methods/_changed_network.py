"""Changes of a student's layers."""

from collections.abc import Callable
from typing import Any

from flax import nnx


def changed(
  name: str, network: Any, change: Callable[[Any], nnx.Module]
) -> Any:
  """The network with a change of its module.

  Args:
    name: of the method, for the error.
    network: an NNX module, or a network that builds one.
    change: `change(module) -> module`.

  Returns:
    A network of the same kind.

  Raises:
    TypeError: if there is no NNX module.
  """
  if isinstance(network, nnx.Module):
    return change(network)
  if getattr(network, "build", None) is None:
    raise TypeError(
      f"{name} changes layers of the student, which is a "
      f"{type(network).__name__}; expected an NNX module, or the Network that "
      "training.Network.of(build) returns."
    )
  return network.changed(change)
