"""The parameters of a narrower network inside a network."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdjax import ops

P = TypeVar("P")


def narrow(
  params: P, width: ArrayLike, *, whole: Sequence[str] = ("head",)
) -> P:
  """Narrow network: the parameters of the first units, others zero.

  In each layer the first `round(width * units)` units stay, at least one. The
  output of a unit whose parameters are zero is 0, so the unit does not affect
  the next layer: the network computes the same as the smaller network that
  `copy_paste(..., widths="first")` makes of it. This holds for linear layers,
  convolutions and batch normalization with activations that map 0 to 0, such as
  a ReLU; not for layer normalization.

  Args:
    params: a pytree of parameters, the units of each on its last axis.
    width: the share of the units that stays, above 0 up to 1. May be traced.
    whole: names of the layers that do not change: those that return logits.

  Returns:
    Parameters of the same shapes.

  Raises:
    ValueError: if a static width is not above 0 and at most 1.

  Examples:
    >>> params = narrow({"stem": jnp.ones(4), "head": jnp.ones(2)}, 0.5)
    >>> print(params["stem"], params["head"])
    [1. 1. 0. 0.] [1. 1.]

  References:
    Yu and Huang, `Universally slimmable networks and improved training
    techniques <https://arxiv.org/abs/1903.05134>`_, 2019.
  """
  ops.check_positive("narrow: width", width)
  ops.check_range("narrow: width", width, 0.0, 1.0)

  def cut(path: tuple[Any, ...], value: Any) -> Any:
    names = [str(getattr(x, "key", getattr(x, "name", x))) for x in path]
    if not jnp.ndim(value) or set(names) & set(whole):
      return value
    size = value.shape[-1]
    units = jnp.maximum(jnp.round(jnp.asarray(width) * size), 1)
    return jnp.where(jnp.arange(size) < units, value, 0).astype(value.dtype)

  return jax.tree_util.tree_map_with_path(cut, params)
