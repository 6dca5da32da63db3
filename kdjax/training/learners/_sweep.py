"""Many students in one compiled program."""

import functools
import inspect
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import ops
from kdjax.training.learners._learner import Learner


def sweep(
  function: Any,
  *,
  shared: Collection[str] = ("frozen", "data", "batch"),
  chunk_size: int | None = None,
) -> Any:
  """Sweep: a step, epoch or evaluation of many students, as one program.

  The students have one structure, and their own seeds, temperatures, weights
  and learning rates, all of which are arrays in their states.

  Args:
    function: a step, an epoch, an evaluation, or another function of states;
      or a `Learner`, all of whose functions become those of many
      students: `init(keys, batch, temperature=temperatures)`.
    shared: the names of the parameters that all students have in common.
      Every other argument has a leading axis of students. A teacher runs once
      for all that are computed at a time, if its inputs are shared: add
      `"plan"` for one order of data.
    chunk_size: how many students are computed at a time; by default all, in
      one vmap. On a CPU give 1 for convolutions: those of several kernels at
      once are several times slower there. It also holds the activations of
      fewer students.

  Returns:
    The mapped function, of the same signature.

  Raises:
    TypeError: if `chunk_size` is no integer or `shared` is one string.
    ValueError: if `chunk_size` is below 1; from the call, unless all arrays of
      the arguments that are not shared have as many students.

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
  if isinstance(shared, str):
    raise TypeError(f"sweep: shared is {shared!r}; expected ({shared!r},).")
  if isinstance(function, Learner):
    over = functools.partial(sweep, shared=shared, chunk_size=chunk_size)
    return function._replace(
      init=sweep(function.init, shared=shared),
      start=sweep(function.start, shared=shared),
      step=over(function.step),
      evaluate=over(function.evaluate),
      mapped="sweep",
    )
  signature = inspect.signature(function)
  if chunk_size is not None:
    ops.check_integer("chunk_size", chunk_size, 1)

  @functools.wraps(function)
  def swept(*args: Any, **kwargs: Any) -> Any:
    bound = signature.bind(*args, **kwargs)
    static = {*shared, "axis_name"}
    rows = {k: v for k, v in bound.arguments.items() if k not in static}
    _check_students(rows)

    def student(row: dict[str, Any]) -> Any:
      own = inspect.BoundArguments(signature, bound.arguments | row)
      return function(*own.args, **own.kwargs)

    if chunk_size is None:
      return jax.vmap(student)(rows)
    # One at a time is no vmap at all, not even of one student.
    at_once = chunk_size if chunk_size > 1 else None
    return jax.lax.map(student, rows, batch_size=at_once)

  return swept


def _check_students(rows: Mapping[str, Any]) -> None:
  """Raises ValueError unless all arrays have one leading axis of students."""
  shapes = [
    (name, np.shape(x))
    for name, tree in rows.items()
    for x in jax.tree.leaves(tree)
  ]
  if not shapes:
    raise ValueError("sweep: all is shared; expected an argument that is not.")
  first, students = shapes[0][0], shapes[0][1][:1]
  for name, shape in shapes:
    if not shape or shape[:1] != students:
      wanted = f", {students[0]} of {first}" if students else ""
      raise ValueError(
        f"sweep: {name} has an array of shape {shape}; expected a leading axis "
        f"of students{wanted}. What they have in common is named in shared."
      )


def grid(**values: Sequence[Any]) -> dict[str, Array]:
  """Grid: all combinations of values, one student each.

  Args:
    **values: the values of each hyper-parameter.

  Returns:
    name -> `[students]`; the last hyper-parameter varies fastest. Under
    `jax.vmap` a network takes a seed as `nnx.Rngs(jax.random.key(seed))`.

  Raises:
    ValueError: if a hyper-parameter has no value or no sequence of them.

  Examples:
    >>> points = grid(seed=(0, 1), temperature=(1.0, 4.0))
    >>> points["seed"].tolist(), points["temperature"].tolist()
    ([0, 0, 1, 1], [1.0, 4.0, 1.0, 4.0])

  References:
    `itertools.product
    <https://docs.python.org/3/library/itertools.html#itertools.product>`_.
  """
  for name, choices in values.items():
    try:
      empty = isinstance(choices, str) or not len(choices)
    except TypeError:
      empty = True
    if empty:
      raise ValueError(
        f"grid: {name} is {choices!r}; expected at least one value, in a "
        "sequence."
      )
  columns = zip(*itertools.product(*values.values()), strict=True)
  return {k: jnp.asarray(v) for k, v in zip(values, columns, strict=True)}
