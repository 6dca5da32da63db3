"""Run-time checks of array values."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from kdjax.ops.validation._debug_checks import debug_checks

P = ParamSpec("P")
R = TypeVar("R")


def checked(fn: Callable[P, R]) -> Callable[P, R]:
  """Checked evaluation: makes a loss raise an error for invalid values.

  Under `jax.jit`, a loss can check shapes but not values. Wrapped in `checked`,
  it also raises an error for labels out of range, a traced temperature that is
  not above 0, a traced weight outside [0, 1], and inputs that are NaN or +inf
  (-inf is a masked class). Without the wrapper, a program contains no checks:
  they cost nothing, and it can be exported. `debug_checks` adds them for other
  uses of `jax.experimental.checkify`.

  Args:
    fn: a function. Arguments that are JAX or NumPy arrays are traced; all other
      arguments (numbers, strings, booleans) are constants. A function that
      contains a solver, such as `h_divergence`, cannot be checked: JAX's
      checkify does not support its loop.

  Returns:
    The compiled function. It raises `jax.errors.JaxRuntimeError`, a
    `ValueError`, with the message of the first failed check.

  Raises:
    jax.errors.JaxRuntimeError: by the returned function, for an invalid value.

  Examples:
    >>> from kdjax.ops import softened_softmax
    >>> soften = checked(softened_softmax)
    >>> soften(jnp.array([0.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)
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
            f"input {jax.tree_util.keystr(path)} holds NaN or +inf; "
            "expected finite values, or -inf for a masked class",
          )
      return fn(*args, **kwargs)

    return checkify.checkify(call)(arrays)

  @functools.wraps(fn)
  def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
    leaves, structure = jax.tree.flatten((args, kwargs))
    constants = tuple(None if _is_array(x) else x for x in leaves)
    arrays = {i: x for i, x in enumerate(leaves) if _is_array(x)}
    with debug_checks():
      error, result = compiled(structure, constants, arrays)
    error.throw()
    return result

  return wrapped


def _is_array(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array | np.ndarray)
