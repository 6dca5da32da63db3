"""Run-time checks for values that shapes cannot show."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

P = ParamSpec("P")
R = TypeVar("R")


def checked(fn: Callable[P, R]) -> Callable[P, R]:
  """Checked evaluation: raises on values that a compiled loss cannot refuse.

  A loss under `jax.jit` sees shapes, not values. Wrapped in `checked`, it also
  reports labels out of range, a traced temperature that is not above 0, a
  traced weight outside [0, 1], and inputs that are NaN or +inf (-inf is a
  masked class). The checks cost nothing in a function that is not wrapped.

  Args:
    fn: a function. Its arguments that are JAX or NumPy arrays are traced, all
      others (numbers, strings, booleans) are constants. A function with a
      solver inside, such as `h_divergence`, cannot be checked: JAX's checkify
      has no rule for its loop.

  Returns:
    The function, compiled, which raises `jax.errors.JaxRuntimeError`, a
    `ValueError`, with the first failed check.

  Raises:
    jax.errors.JaxRuntimeError: by the returned function, on a bad value.

  Examples:
    >>> from kdjax.ops import softened_softmax
    >>> soften = checked(softened_softmax)
    >>> soften(jnp.array([0.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)

  References:
    `JAX's checkify
    <https://docs.jax.dev/en/latest/debugging/checkify_guide.html>`_.
  """

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def compiled(structure: Any, constants: Any, arrays: dict[int, Any]) -> Any:
    def call(arrays: dict[int, Any]) -> R:
      leaves = [arrays.get(i, constant) for i, constant in enumerate(constants)]
      args, kwargs = structure.unflatten(leaves)
      for path, leaf in jax.tree_util.tree_leaves_with_path((args, kwargs)):
        if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
          checkify.check(
            ~jnp.any(jnp.isnan(leaf) | jnp.isposinf(leaf)),
            f"input {jax.tree_util.keystr(path)} holds NaN or +inf",
          )
      return fn(*args, **kwargs)

    return checkify.checkify(call)(arrays)

  @functools.wraps(fn)
  def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
    leaves, structure = jax.tree.flatten((args, kwargs))
    constants = tuple(None if _is_array(x) else x for x in leaves)
    arrays = {i: x for i, x in enumerate(leaves) if _is_array(x)}
    error, result = compiled(structure, constants, arrays)
    error.throw()
    return result

  return wrapped


def _is_array(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array | np.ndarray)
