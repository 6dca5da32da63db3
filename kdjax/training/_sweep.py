"""Many students in one compiled program."""

import inspect
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def sweep(
  function: Callable[..., Any],
  *,
  shared: Collection[str] = ("frozen", "data", "batch"),
) -> Callable[..., Any]:
  """Sweep: a step, epoch or evaluation, vmapped over students.

  The students have one structure, and their own seeds, temperatures, weights
  and learning rates, all of which are arrays in their states.

  Args:
    function: a step, an epoch, an evaluation, or another function of states.
    shared: the names of the parameters that all students have in common.
      Every other argument has a leading axis of students. A teacher runs once
      for all if what it sees is shared: add `"plan"` for one order of data.

  Returns:
    The vmapped function, of the same signature.

  Examples:
    >>> def step(state, frozen, batch, key):
    ...   return state + frozen["rate"] * batch["x"], {}
    >>> frozen, batch = {"rate": 0.5}, {"x": 2.0}
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> states, metrics = sweep(step)(jnp.arange(3.0), frozen, batch, keys)
    >>> states
    Array([1., 2., 3.], dtype=float32)

  References:
    `jax.vmap <https://docs.jax.dev/en/latest/_autosummary/jax.vmap.html>`_.
  """
  names = inspect.signature(function).parameters
  return jax.vmap(
    function, in_axes=tuple(None if name in shared else 0 for name in names)
  )


def grid(**values: Sequence[Any]) -> dict[str, Array]:
  """Grid: all combinations of values, one student each.

  Args:
    **values: the values of each hyper-parameter.

  Returns:
    name -> `[students]`; the last hyper-parameter varies fastest.

  Raises:
    ValueError: if a hyper-parameter has no value.

  Examples:
    >>> points = grid(seed=(0, 1), temperature=(1.0, 4.0))
    >>> points["seed"].tolist(), points["temperature"].tolist()
    ([0, 0, 1, 1], [1.0, 4.0, 1.0, 4.0])

  References:
    `itertools.product
    <https://docs.python.org/3/library/itertools.html#itertools.product>`_.
  """
  for name, choices in values.items():
    if not len(choices):
      raise ValueError(
        f"grid: {name} is {choices!r}; expected at least one value."
      )
  columns = zip(*itertools.product(*values.values()), strict=True)
  return {k: jnp.asarray(v) for k, v in zip(values, columns, strict=True)}
