"""A loss of the logits of two views."""

from typing import Any

from jax.typing import ArrayLike

from kdjax import ops
from kdjax.methods._combine import combine
from kdjax.methods._objective import Objective, stateless


def two_views(
  loss: Any,
  view: str,
  *,
  weight: ArrayLike = 1.0,
  strong_labels: ArrayLike = 1.0,
  **hyperparameters: ArrayLike,
) -> Objective:
  """A loss of the logits of both views, and the other view's cross-entropy."""
  names = ("student_logits", "teacher_logits")
  seen = (f"student_{view}_logits", f"teacher_{view}_logits")
  across = stateless(loss, (*names, *seen), **hyperparameters)
  labels = stateless(ops.cross_entropy, (seen[0], "labels"))
  return combine({"views": (weight, across), "ce": (strong_labels, labels)})
