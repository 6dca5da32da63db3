"""The students of a run: one, or many as one program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import ops
from kdjax.training.learners._sweep import sweep

# What all students have in common; "key" and the order are, if the seed is.
_SHARED = ("frozen", "data")
_OF_A_SEED = ("batch", "plan", "key")


class Students(NamedTuple):
  """Students: their hyper-parameters and seeds.

  Attributes:
    values: name -> `[students]`.
    seeds: int `[students]`.
    at_a_time: how many are computed at once; None for all.
  """

  values: dict[str, Array]
  seeds: np.ndarray
  at_a_time: int | None = None

  @property
  def size(self) -> int:
    """How many they are."""
    return len(self.seeds)

  @property
  def one_seed(self) -> bool:
    """Whether all have one key, and so one order of the data."""
    return len(set(self.seeds.tolist())) == 1

  def keys(self, key: Array) -> Array:
    """The key of each student, `[students]`."""
    return jax.vmap(lambda seed: jax.random.fold_in(key, seed))(self.seeds)

  def of_each_seed(self) -> tuple["Students", np.ndarray]:
    """A student of each seed, and the place of each student's among them."""
    seeds, places = np.unique(self.seeds, return_inverse=True)
    return Students({}, seeds, self.at_a_time), places

  def over(
    self, function: Callable[..., Any], *shared: str
  ) -> Callable[..., Any]:
    """The function over students; `shared` names further common arguments."""
    common = _SHARED + (_OF_A_SEED if self.one_seed else ()) + shared
    return sweep(function, shared=common, chunk_size=self.at_a_time)

  def describe(self) -> dict[str, Any]:
    """Their values, as JSON holds them."""
    values = {k: np.asarray(v).tolist() for k, v in self.values.items()}
    return {"seed": self.seeds.tolist()} | values


def as_students(values: Any, at_a_time: int | None) -> Students | None:
  """Returns the students of a grid; None for one student alone."""
  if values is None:
    if at_a_time is not None:
      raise ValueError(
        f"fit: students_at_a_time is {at_a_time} and students is None; "
        "expected students=training.grid(...) too."
      )
    return None
  if not isinstance(values, Mapping) or not values:
    raise TypeError(
      f"fit: students is a {type(values).__name__}; expected name -> values, "
      "such as training.grid(seed=range(8), temperature=(1.0, 4.0))."
    )
  if at_a_time is not None:
    ops.check_integer("fit: students_at_a_time", at_a_time, 1)
  arrays = {name: np.asarray(own) for name, own in values.items()}
  first, count = next(((k, x.shape[:1]) for k, x in arrays.items()))
  for name, own in arrays.items():
    if not own.shape or own.shape[:1] != count or not own.shape[0]:
      raise ValueError(
        f"fit: students[{name!r}] has the shape {own.shape}; expected one "
        f"value for each student, as {first!r} of shape {count} has."
      )
    if own.dtype.kind not in "biuf":
      raise TypeError(
        f"fit: students[{name!r}] has values of {own.dtype}; expected numbers."
      )
  seeds = arrays.pop("seed", np.zeros(count, int))
  if seeds.ndim != 1 or not np.issubdtype(seeds.dtype, np.integer):
    raise TypeError(
      f"fit: students['seed'] is of {seeds.dtype} and shape {seeds.shape}; "
      "expected integers, one for each student."
    )
  known = {k: jnp.asarray(v) for k, v in arrays.items()}
  return Students(known, seeds, at_a_time)


def over(
  students: Students | None, function: Callable[..., Any], *shared: str
) -> Callable[..., Any]:
  """The function over students; the function itself for one."""
  return function if students is None else students.over(function, *shared)


def student_of(tree: Any, place: int) -> Any:
  """The part of one student."""
  return jax.tree.map(lambda x: x[place], tree)


def split_key(key: Array) -> tuple[Array, Array, Array]:
  """The keys of the weights, of the order and of the steps."""
  split = functools.partial(jax.random.split, num=3)
  parts = jax.vmap(split)(key) if key.shape else split(key)
  return parts[..., 0], parts[..., 1], parts[..., 2]
