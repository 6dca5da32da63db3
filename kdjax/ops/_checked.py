"""Run-time checks for values that shapes cannot show."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import checkify

P = ParamSpec("P")
R = TypeVar("R")


def checked(fn: Callable[P, R]) -> Callable[P, R]:
  """Checked evaluation: raises on values that a compiled loss cannot refuse.

  A loss under `jax.jit` sees shapes, not values. Wrapped in `checked`, it also
  reports labels out of range, a traced temperature that is not above 0, and
  inputs that are NaN or +inf (-inf is a masked class). The checks cost nothing
  in a function that is not wrapped.

  Args:
    fn: a function of arrays. Wrap before `jax.jit` would be applied: the
      result is compiled already.

  Returns:
    The function, compiled, which raises `jax.errors.JaxRuntimeError` (a
    `ValueError` to `checkify`) with the first failed check.

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

  def with_input_checks(*args: P.args, **kwargs: P.kwargs) -> R:
    for path, leaf in jax.tree_util.tree_leaves_with_path((args, kwargs)):
      if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        checkify.check(
          ~jnp.any(jnp.isnan(leaf) | jnp.isposinf(leaf)),
          f"input {jax.tree_util.keystr(path)} holds NaN or +inf",
        )
    return fn(*args, **kwargs)

  compiled = jax.jit(checkify.checkify(with_input_checks))

  @functools.wraps(fn)
  def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
    error, result = compiled(*args, **kwargs)
    error.throw()
    return result

  return wrapped
