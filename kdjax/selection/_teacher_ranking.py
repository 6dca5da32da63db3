"""Which pretrained model for this task?"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops import check_choice
from kdjax.selection._h_score import h_score
from kdjax.selection._leep import leep
from kdjax.selection._logme import logme
from kdjax.selection._nce import nce
from kdjax.selection._transrate import transrate

_CRITERIA: dict[str, Callable[..., Array]] = {
  "h_score": h_score,
  "leep": leep,
  "logme": logme,
  "nce": nce,
  "regularized_h_score": functools.partial(h_score, covariance="ledoit-wolf"),
  "transrate": transrate,
}


class TeacherRanking(NamedTuple):
  """Ranking of teachers, the best one first.

  Attributes:
    names: the candidates' names.
    scores: `[candidates]`, their scores in the same order, falling.

  References:
    You et al., `LogME: practical assessment of pre-trained models for transfer
    learning <https://arxiv.org/abs/2102.11005>`_, 2021.
  """

  names: tuple[str, ...]
  scores: Float[Array, " candidates"]


def rank_teachers(
  candidates: Mapping[str, ArrayLike],
  labels: ArrayLike,
  *,
  criterion: str | Callable[[Array, Array], ArrayLike] = "logme",
  where: ArrayLike | None = None,
) -> TeacherRanking:
  """Ranking of teachers: which pretrained model suits the task, untrained.

  Every candidate has seen the same labeled target examples once, in
  evaluation mode; nothing is fine-tuned. Widths may differ.

  Args:
    candidates: name -> what a model made of the examples: embeddings
      `[batch, dims]` for "logme", "h_score", "regularized_h_score" and
      "transrate"; probabilities of its own classes `[batch, source_classes]`
      for "leep"; predicted source labels, integers `[batch]`, for "nce".
    labels: `[batch]`, the target labels; floats `[batch]` or
      `[batch, targets]` for a regression, by "logme".
    criterion: one of these names, or a function `(candidate, labels) -> score`
      that is higher for what is better, such as a `functools.partial` of
      `transrate` with another distortion.
    where: `[batch]`, mask of the examples, for the criteria named above.

  Returns:
    A `TeacherRanking`. A score that is NaN ranks last; candidates of
    equal score stay in the order in which they came.

  Raises:
    ValueError: if there is no candidate, the criterion is unknown, or `where`
      is given to a function.
    TypeError: if candidates is no mapping, or the values are being traced: a
      ranking has names, so it is made outside of jit. Its scores alone may be
      traced, by the criteria.

  Scores of one criterion compare models on one task, not tasks, and those of
  different criteria do not compare. TransRate depends on the features' scale,
  plain H-score saturates for more dims than examples.

  Examples:
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> candidates = {
    ...   "blind": jnp.array([[1.0], [2.0], [1.0], [2.0]]),
    ...   "seeing": jnp.array([[1.0], [1.2], [-1.0], [-1.2]]),
    ... }
    >>> rank_teachers(candidates, labels).names
    ('seeing', 'blind')

  References:
    You et al., `LogME: practical assessment of pre-trained models for transfer
    learning <https://arxiv.org/abs/2102.11005>`_, 2021.
  """
  if not isinstance(candidates, Mapping):
    raise TypeError(
      f"rank_teachers: candidates is a {type(candidates).__name__}; expected a "
      "mapping, name -> array."
    )
  if not candidates:
    raise ValueError(
      "rank_teachers: candidates is empty; expected one or more."
    )
  if any(
    isinstance(x, jax.core.Tracer)
    for x in (*candidates.values(), labels, where)
  ):
    raise TypeError(
      "rank_teachers: candidates, labels or where is being traced; expected "
      "arrays outside of jit. Call the criterion itself instead."
    )
  target = jnp.asarray(labels)
  if isinstance(criterion, str):
    check_choice("criterion", criterion, tuple(_CRITERIA))
    counted = None if where is None else jnp.asarray(where)
    score = functools.partial(_CRITERIA[criterion], where=counted)
  elif where is not None:
    raise ValueError(
      "rank_teachers: where is given; expected None for a criterion that is a "
      "function. Let the function see to it."
    )
  else:
    score = criterion
  scores = [
    jnp.asarray(score(jnp.asarray(x), target)) for x in candidates.values()
  ]
  # In NumPy: NaN sorts last.
  order = np.argsort(
    [-float(value) for value in scores], kind="stable"
  ).tolist()
  names = list(candidates)
  return TeacherRanking(
    tuple(names[i] for i in order), jnp.stack([scores[i] for i in order])
  )
