"""Ranking of pretrained models by transferability scores."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
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
  """Result of `rank_teachers`, best candidate first.

  Attributes:
    names: the names of the candidates.
    scores: `[candidates]`, the scores in the same, descending order.
  """

  names: tuple[str, ...]
  scores: Float[Array, " candidates"]


@ops.validate
def rank_teachers(
  candidates: Mapping[str, ArrayLike],
  labels: ArrayLike,
  *,
  criterion: str | Callable[[Array, Array], ArrayLike] = "logme",
  where: ArrayLike | None = None,
) -> TeacherRanking:
  """Ranking of pretrained models for a task, without fine-tuning.

  All candidates are evaluated on the same labeled target examples, in
  evaluation mode. The widths of their embeddings may differ.

  Args:
    candidates: name -> output of a model for the examples: embeddings
      `[batch, dims]` for "logme", "h_score", "regularized_h_score" and
      "transrate"; probabilities of the model's own classes
      `[batch, source_classes]` for "leep"; predicted source labels, integers
      `[batch]`, for "nce".
    labels: `[batch]`, the target labels; for a regression with "logme", floats
      `[batch]` or `[batch, targets]`.
    criterion: one of these names, or a function `(candidate, labels) -> score`
      with higher scores for better models, such as a `functools.partial` of
      `transrate` with another distortion.
    where: `[batch]`, mask of the examples, for the criteria above.

  Returns:
    A `TeacherRanking`. NaN scores rank last; candidates of equal score keep
    their order.

  Raises:
    ValueError: if there is no candidate, the criterion is unknown, or `where`
      is given for a function.
    TypeError: if `candidates` is not a mapping, or values are traced: a ranking
      has names, so call it outside of jit. The criteria may be traced.

  Compare scores of the same criterion on the same task only. TransRate depends
  on the scale of the features; the plain H-score is constant for more dims than
  examples.

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
      "mapping from names to arrays."
    )
  if not candidates:
    raise ValueError(
      "rank_teachers: candidates is empty; expected one or more candidates."
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
    ops.check_choice("criterion", criterion, tuple(_CRITERIA))
    counted = None if where is None else jnp.asarray(where)
    score = functools.partial(_CRITERIA[criterion], where=counted)
  elif where is not None:
    raise ValueError(
      "rank_teachers: where is given; expected None for a criterion that is a "
      "function. Apply the mask inside the function."
    )
  elif callable(criterion):
    score = criterion
  else:
    raise TypeError(
      f"rank_teachers: criterion is {criterion!r}; expected a function, or one "
      f"of {tuple(_CRITERIA)}."
    )
  scores = [
    jnp.asarray(score(jnp.asarray(x), target)) for x in candidates.values()
  ]
  # NumPy sorts NaN last.
  order = np.argsort(
    [-float(value) for value in scores], kind="stable"
  ).tolist()
  names = list(candidates)
  return TeacherRanking(
    tuple(names[i] for i in order), jnp.stack([scores[i] for i in order])
  )
