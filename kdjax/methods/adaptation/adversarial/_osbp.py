"""Open-set adaptation by backpropagation (OSBP)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._row import Search
from kdjax.methods.adaptation._row_kinds import row


def _osbp(*, unknown_share: ArrayLike = 0.5) -> Objective:
  """`kdjax.adaptation.osbp_loss` of the student's classifier.

  The features are behind a gradient reversal. No source example is of the last
  class, the unknown one.
  """

  def loss(
    target_embedding: Array, target_classifier: Any, *, unknown_share: ArrayLike
  ) -> Array:
    kernel, bias = target_classifier
    logits = ops.reverse_gradient(target_embedding) @ kernel + bias[None]
    return adaptation.osbp_loss(logits, unknown_share=unknown_share)

  return stateless(loss, unknown_share=unknown_share)


ROWS = {
  "osbp": row(
    "OSBP",
    "a last class takes in what the source does not know (open sets)",
    _osbp,
    tuned="unknown_share",
    search=Search(0.5),
  ),
}
