"""Many students in one compiled program."""

import inspect
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ops._validation import check_integer


def sweep(
  function: Callable[..., Any],
  *,
  shared: Collection[str] = ("frozen", "data", "batch"),
  chunk_size: int | None = None,
) -> Callable[..., Any]:
  """Sweep: a step, epoch or evaluation of many students, as one program.

  The students have one structure, and their own seeds, temperatures, weights
  and learning rates, all of which are arrays in their states.

  Args:
    function: a step, an epoch, an evaluation, or another function of states.
    shared: the names of the parameters that all students have in common.
      Every other argument has a leading axis of students. A teacher runs once
      for all that are computed at a time, if what it sees is shared: add
      `"plan"` for one order of data.
    chunk_size: how many students are computed at a time; by default all, in
      one vmap. On a CPU give 1 for convolutions: those of several kernels at
      once are several times slower there. It also holds the activations of
      fewer students.

  Returns:
    The mapped function, of the same signature.

  Raises:
    TypeError: if `chunk_size` is no integer.
    ValueError: if `chunk_size` is below 1.

  Examples:
    >>> def step(state, frozen, batch, key):
    ...   return state + frozen["rate"] * batch["x"], {}
    >>> frozen, batch = {"rate": 0.5}, {"x": 2.0}
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> states, metrics = sweep(step)(jnp.arange(3.0), frozen, batch, keys)
    >>> states
    Array([1., 2., 3.], dtype=float32)

  References:
    `jax.vmap <https://docs.jax.dev/en/latest/_autosummary/jax.vmap.html>`_,
    `jax.lax.map
    <https://docs.jax.dev/en/latest/_autosummary/jax.lax.map.html>`_.
  """
  own = [name not in shared for name in inspect.signature(function).parameters]
  if chunk_size is None:
    return jax.vmap(function, tuple(0 if mine else None for mine in own))
  check_integer("chunk_size", chunk_size, 1)

  def swept(*args: Any) -> Any:
    def student(rows: list[Any]) -> Any:
      row = iter(rows)
      pairs = zip(args, own, strict=True)
      return function(*(next(row) if mine else arg for arg, mine in pairs))

    rows = [arg for arg, mine in zip(args, own, strict=True) if mine]
    # One at a time is no vmap at all, not even of one student.
    at_once = chunk_size if chunk_size > 1 else None
    return jax.lax.map(student, rows, batch_size=at_once)

  return swept


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
