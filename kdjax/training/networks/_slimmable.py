"""Networks that can answer by a part of their width."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Array

from kdjax import nets, ops
from kdjax.training.networks._models import (
  Network,
  Variables,
  as_network,
  run_forward,
)


def slimmable(network: Any, *, whole: Sequence[str] = ("head",)) -> Network:
  """Slimmable network: of all its widths, in one set of parameters.

  Its inputs are those of the network, which then answers whole; or
  `{"inputs": inputs, "width": width}`, and the first units of each layer
  answer, as `kdjax.nets.narrow` says. Train it with
  `methods.create("sandwich")` and the views `methods.sandwich_views`,
  and cut a network out of it by `kdjax.nets.copy_paste(..., widths="first")`.

  Args:
    network: an NNX module, a `Model` or a `Network`.
    whole: names of the layers that are never narrowed: those that give logits.

  Returns:
    A `Network`. The first entry of `width` `[batch]` counts for the batch.
    Batch statistics are those of all widths; the authors compute them anew for
    a width that is to be used.

  Raises:
    TypeError: if the network is none.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> network = slimmable(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    >>> variables = network.init(jax.random.key(0))
    >>> inputs = {"inputs": jnp.ones((1, 3)), "width": jnp.full(1, 0.5)}
    >>> outputs, _ = network.forward(variables, inputs, train=False, key=None)
    >>> print(outputs.logits[0, 2:])
    [0. 0.]

  References:
    Yu and Huang, `Universally slimmable networks and improved training
    techniques <https://arxiv.org/abs/1903.05134>`_, 2019; Cai et al.,
    `Once-for-all: train one network and specialize it for efficient deployment
    <https://arxiv.org/abs/1908.09791>`_, 2020.
  """
  made = as_network("slimmable: network", network)

  def forward(
    variables: Variables,
    inputs: Any,
    *,
    train: bool,
    key: Array | None,
    axis_name: str | None = None,
  ) -> tuple[nets.Outputs, Any]:
    if isinstance(inputs, Mapping) and "width" in inputs:
      width = inputs["width"].ravel()[0]
      inputs = ops.get_entry("slimmable: inputs", inputs, "inputs")
      params = nets.narrow(variables.params, width, whole=whole)
      variables = Variables(params, variables.state)
    return run_forward(
      "the network",
      made.forward,
      variables,
      inputs,
      train=train,
      key=key,
      axis_name=axis_name,
    )

  return Network(made.init, forward)
