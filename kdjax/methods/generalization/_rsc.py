"""Representation self-challenging (RSC)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import Search
from kdjax.methods.generalization._flat import flat
from kdjax.methods.generalization._row_kinds import row


def _rsc(*, drop: ArrayLike = 1 / 3) -> Objective:
  """The cross-entropy of embeddings times `kdjax.generalization.rsc_mask`.

  `drop` is the share of the features, and of the examples, that is muted. The
  student returns an embedding and its classifier.
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


ROWS = {
  "rsc": row(
    "RSC",
    "the features that the classifier needs most are muted",
    _rsc,
    cross_entropy=0.0,
    tuned="drop",
    search=Search(1 / 3, 0.0, 0.5, linear=True),
  ),
}
