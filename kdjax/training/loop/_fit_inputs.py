"""The arguments of `fit`: checks, and errors that name them."""

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from kdjax.training.learners._learner import Learner
from kdjax.training.loop._feeds import Feed


def check_learner(learner: Any) -> None:
  """Raises TypeError unless it is a learner of one student."""
  if not isinstance(learner, Learner):
    raise TypeError(
      f"fit: learner is a {type(learner).__name__}; expected a Learner, as "
      "training.distill returns."
    )
  if learner.mapped == "sweep":
    raise TypeError(
      "fit: learner is a sweep; expected a learner of one student, and the "
      "argument students of fit."
    )
  if learner.mapped:
    raise TypeError(
      "fit: learner is parallel already; expected the learner itself, and the "
      "arguments mode and devices of fit."
    )


def as_key(key: Any) -> Array:
  """Returns a typed key, also of an old one of two numbers."""
  if isinstance(key, np.ndarray):
    key = jax.numpy.asarray(key)
  if isinstance(key, jax.Array):
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
      if not key.shape:
        return key
    elif key.dtype == np.uint32 and key.ndim == 1:
      return jax.random.wrap_key_data(key)
    raise TypeError(
      f"fit: key is an array of {key.dtype} and shape {key.shape}; expected "
      "one key, jax.random.key(0)."
    )
  raise TypeError(f"fit: key is {key!r}; expected jax.random.key(0).")


def total_steps(feed: Feed, steps: int | None, epochs: int | None) -> int:
  """The number of steps; raises ValueError if epochs have no length."""
  if steps is not None:
    return steps
  assert epochs is not None
  if feed.steps is None:
    raise ValueError(
      f"fit: epochs is {epochs}, and the data do not say how many batches they "
      "have; expected steps."
    )
  return epochs * feed.steps


def check_size(first: Any, batch_size: int | None) -> int:
  """Returns the examples of a batch of one domain, as they come."""
  masks = (
    [first["mask"]]
    if "mask" in first
    else [part["mask"] for part in first.values()]
  )
  for mask in masks:
    # Of stacked domains in a stream the second axis counts the examples.
    if batch_size is not None and batch_size not in mask.shape[:2]:
      raise ValueError(
        f"fit: batch_size is {batch_size}, and the batches of data have "
        f"{mask.shape[0]} examples; expected the same, or no batch_size."
      )
  return batch_size or masks[0].shape[0]


@contextlib.contextmanager
def explained(name: str, batch: Any) -> Generator[None]:
  """Adds the argument's name to an error, or the fault of the labels."""
  try:
    yield
  except (TypeError, ValueError) as error:
    kind = TypeError if isinstance(error, TypeError) else ValueError
    hint = _odd_labels(name, batch)
    if hint:
      raise kind(f"fit: {hint} ({_first_line(error)})") from error
    if name == "data":
      raise
    raise kind(f"fit: {name}: {error}") from error


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [""])[0]


def _odd_labels(name: str, batch: Any) -> str:
  parts = [(name, batch)] + [
    (f"{name}[{k!r}]", v) for k, v in batch.items() if isinstance(v, Mapping)
  ]
  for where, part in parts:
    label = part.get("label")
    if label is None or isinstance(label, Mapping):
      continue
    what = f"{where}['label'] has the dtype {label.dtype} and"
    if label.ndim == 2 and label.shape[1] == 1:
      return f"{what} the shape [n, 1]; expected [n]: labels[:, 0]."
    if label.ndim == 1 and np.issubdtype(label.dtype, np.floating):
      return f"{what} the shape [n]; expected integers: labels.astype('int32')."
  return ""
