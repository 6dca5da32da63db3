"""Open-set adaptation by backpropagation (OSBP)."""

from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._objective import Objective, stateless


def osbp(*, unknown_share: ArrayLike = 0.5) -> Objective:
  """Open-set backpropagation (OSBP): the last class is the unknown one.

  The `kdjax.adaptation.osbp_loss` of the student's classifier on the
  target's embeddings, whose gradient is reversed.

  Args:
    unknown_share: t, the probability of the unknown class that the classifier
      aims at, kept in the state.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source, which has no example of the last class.

  Raises:
    ValueError: if the student returns no embedding or no classifier.

  References:
    Saito et al., `Open set domain adaptation by backpropagation
    <https://arxiv.org/abs/1804.10427>`_, 2018.
  """

  def loss(
    target_embedding: Array, target_classifier: Any, *, unknown_share: ArrayLike
  ) -> Array:
    kernel, bias = target_classifier
    logits = ops.reverse_gradient(target_embedding) @ kernel + bias[None]
    return adaptation.osbp_loss(logits, unknown_share=unknown_share)

  return stateless(loss, unknown_share=unknown_share)
