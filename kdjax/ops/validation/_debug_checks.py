"""Checks of array values, in a program only where they are asked for."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jaxtyping import Array, Bool

# A part of the key of JAX's caches: a function that was traced without checks
# is traced again where they are asked for.
_enabled = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def debug_checks() -> Iterator[None]:
  """Adds checks of array values to the functions that are traced within.

  A check is an effect of a program, and a program with effects cannot be
  exported (`jax.export`). So programs contain the checks of kdjax only within
  this context. `kdjax.ops.checked` enters it; use it by hand with
  `jax.experimental.checkify`, which raises the errors.

  Returns:
    A context manager.

  Examples:
    >>> from jax.experimental import checkify
    >>> from kdjax.ops import debug_checks
    >>> from kdjax.ops import softened_softmax
    >>> def soften(temperature):
    ...   return softened_softmax(jnp.zeros(2), temperature=temperature)
    >>> with debug_checks():
    ...   error, _ = checkify.checkify(soften)(jnp.array(-1.0))
    >>> print(error.get().splitlines()[0])
    temperature must be above 0; got -1.0 (`check` failed)
  """
  with _enabled(True):
    yield


def debug_check(
  holds: Callable[[], Bool[Array, "..."]], message: str, *values: Array
) -> None:
  """Checks array values, within `debug_checks`; elsewhere it does nothing.

  Args:
    holds: returns an array that is True where all is well.
    message: the error message, with `{}` for each of the values.
    *values: the values to show.

  Returns:
    None.
  """
  if _enabled.value:
    checkify.debug_check(jnp.all(holds()), message, *values)
