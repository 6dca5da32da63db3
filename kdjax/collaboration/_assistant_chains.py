"""Chains of teacher assistants, chosen by accuracies on validation data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax import ops


def evenly_spaced_assistants(
  accuracies: Sequence[float] | np.ndarray, *, num_assistants: int = 1
) -> tuple[int, ...]:
  r"""Assistants whose accuracies are evenly spaced, without trained pairs.

  .. math:: \min_{0 = i_0 < \dots < i_{K+1} = n-1} \sum_k
    (a_{i_k} - a_{i_{k+1}})^2

  The sum of squared steps is least where all steps are equal. It is a shortest
  path of K + 1 edges, found by dynamic programming. For one assistant it is
  the authors' rule: an assistant whose accuracy is near the mean of those of
  teacher and student is a good one, whatever its size.

  Args:
    accuracies: `[networks]`, on validation data, of networks that are each
      trained alone: the teacher first, then the candidates from large to small,
      the student last.
    num_assistants: K, the number of assistants.

  Returns:
    The chain, as K + 2 places in `accuracies`, from the teacher's 0 to the
    student's. Of equally good chains it is the one of the larger networks.

  Raises:
    ValueError: if accuracies are no finite numbers `[networks]`, or there are
      fewer candidates than assistants.
    TypeError: if `num_assistants` is no integer.

  Examples:
    >>> evenly_spaced_assistants([0.98, 0.97, 0.94, 0.92, 0.88])
    (0, 2, 4)

  References:
    Mirzadeh et al., `Improved knowledge distillation via teacher assistant
    <https://arxiv.org/abs/1902.03393>`_, 2020, on the best size of one
    assistant; the rule for several is kdjax's.
  """
  name = "evenly_spaced_assistants"
  ops.check_integer(f"{name}: num_assistants", num_assistants, 0)
  values = _as_numbers(name, accuracies)
  if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
    raise ValueError(
      f"{name}: accuracies is {values.tolist()}; expected finite numbers, of "
      "the teacher, the candidates and the student."
    )
  if num_assistants > len(values) - 2:
    raise ValueError(
      f"{name}: num_assistants is {num_assistants}; expected at most "
      f"{len(values) - 2}, the number of candidates."
    )
  count = len(values)
  costs = np.square(values[:, None] - values[None])
  costs[np.tril_indices(count)] = np.inf  # from large to small only
  best = np.where(np.arange(count) == 0, 0.0, np.inf)
  before = []
  for _ in range(num_assistants + 1):
    total = best[:, None] + costs
    before.append(np.argmin(total, 0))
    best = np.min(total, 0)
  chain = [count - 1]
  for places in reversed(before):
    chain.append(int(places[chain[-1]]))
  return tuple(reversed(chain))


def best_assistants(
  accuracies: Sequence[Sequence[float]] | np.ndarray,
) -> tuple[int, ...]:
  r"""The best chain of assistants, by dynamic programming over trained pairs.

  .. math:: t(j) = \arg\max_{i < j} a_{ij}

  Networks are trained in the order of their size: network j is taught by each
  larger network i, as network i came out of its own best teacher. So n (n - 1)
  / 2 trainings of n networks take the place of one training for each of the
  2^(n - 2) chains.

  Args:
    accuracies: `[networks, networks]`, on validation data; the entry (i, j) is
      that of network j if network i teaches it. The teacher is first, then the
      candidates from large to small, the student last. Only entries above the
      diagonal count; NaN stands for a pair that was not trained.

  Returns:
    The chain, as places from the teacher's 0 to the student's. Of equally good
    teachers it has the larger one. A part of the matrix, `accuracies[:j + 1,
    :j + 1]`, gives the chain that leads to network j.

  Raises:
    ValueError: if accuracies are no square matrix, or a network of the chain
      was taught by none.

  Examples:
    >>> nan = float("nan")
    >>> best_assistants([
    ...   [nan, 0.95, 0.80],
    ...   [nan, nan, 0.83],
    ...   [nan, nan, nan],
    ... ])
    (0, 1, 2)

  References:
    Mirzadeh et al., `Improved knowledge distillation via teacher assistant
    <https://arxiv.org/abs/1902.03393>`_, 2020.
  """
  values = _as_numbers("best_assistants", accuracies)
  square = values.ndim == 2 and len(values) == values.shape[-1] >= 2
  if not square:
    raise ValueError(
      f"best_assistants: accuracies has shape {values.shape}; expected "
      "[networks, networks], of two networks or more."
    )
  chain = [len(values) - 1]
  while chain[-1]:
    taught = values[: chain[-1], chain[-1]]
    if np.isnan(taught).all():
      raise ValueError(
        f"best_assistants: accuracies has no number in column {chain[-1]} "
        "above the diagonal; expected the accuracy that a larger network "
        "taught it to."
      )
    chain.append(int(np.nanargmax(taught)))
  return tuple(reversed(chain))


def _as_numbers(name: str, accuracies: Any) -> np.ndarray:
  try:
    return np.array(accuracies, float)
  except (TypeError, ValueError):
    raise ValueError(
      f"{name}: accuracies is a {type(accuracies).__name__} that has no "
      "numbers; expected accuracies on validation data."
    ) from None
