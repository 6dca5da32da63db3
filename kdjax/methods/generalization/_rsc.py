"""Representation self-challenging (RSC)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.generalization._flat import flat


def rsc(*, drop: ArrayLike = 1 / 3) -> Objective:
  """Representation self-challenging (RSC): the best features are muted.

  The cross-entropy of the student's classifier on its embeddings times
  `kdjax.generalization.rsc_mask`.

  Args:
    drop: the share of the features, and of the examples, that is muted; kept
      in the state. 1 / 3 for both in DomainBed.

  Returns:
    An objective which includes the task; its weight is 1.

  Raises:
    ValueError: if the student returns no embedding or no classifier.

  References:
    Huang et al., `Self-challenging improves cross-domain generalization
    <https://arxiv.org/abs/2007.02454>`_, 2020.
  """

  def loss(
    student_embedding: Array,
    student_classifier: Any,
    labels: Array,
    *,
    drop: ArrayLike,
    where: Array,
    axis_name: str | None,
  ) -> Array:
    kernel, bias = student_classifier
    features, labels, where = map(flat, (student_embedding, labels, where))

    def classify(features: Array) -> Array:
      return features @ kernel + bias[None]

    kept = generalization.rsc_mask(
      classify,
      features,
      labels,
      feature_drop=drop,
      batch_drop=drop,
      where=where,
      axis_name=axis_name,
    )
    losses = ops.cross_entropy(classify(features * kept), labels)
    return ops.masked_mean(losses, where, axis_name=axis_name)

  return stateless(loss, drop=drop)
