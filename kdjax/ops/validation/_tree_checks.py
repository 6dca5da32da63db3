"""Checks of parameters, batches and losses that a user passes as such."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def float_leaves(name: str, tree: Any) -> Any:
  """Returns a pytree of JAX arrays, or raises TypeError at an integer leaf.

  Args:
    name: the name of the argument, for the error message.
    tree: a pytree of arrays and numbers.

  Returns:
    The pytree.
  """

  def leaf(path: Any, x: Any) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      where = jax.tree_util.keystr(path)
      raise TypeError(
        f"{name}{where} has dtype {x.dtype}; expected a floating dtype."
      )
    return x

  return jax.tree_util.tree_map_with_path(leaf, tree)


def leading_size(name: str, tree: Any) -> int:
  """Returns the size of the first axis of all leaves, or raises ValueError.

  Args:
    name: the name of the argument, for the error message.
    tree: a pytree of arrays with one number of rows, such as a batch.

  Returns:
    The number of rows.
  """
  sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(tree)}
  if len(sizes) != 1 or sizes == {()}:
    raise ValueError(
      f"{name} has arrays of {sorted(sizes)} rows; expected one or more "
      "arrays, each with the same number of rows."
    )
  ((rows,),) = sizes
  return rows


def real_scalar(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function that raises TypeError unless it returns a real scalar.

  Args:
    name: the name of the argument, for the error message.
    function: a loss, or a log-likelihood, of which a gradient is taken.

  Returns:
    The function.
  """

  def checked(*args: Any) -> Array:
    value = jnp.asarray(function(*args))
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
      raise TypeError(
        f"{name} returned {value.dtype} of shape {value.shape}; expected a "
        "real scalar."
      )
    return value

  return checked
