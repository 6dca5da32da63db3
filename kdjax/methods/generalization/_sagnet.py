"""Style-agnostic networks (SagNet)."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.adaptation.adversarial._players import frozen
from kdjax.methods.generalization._flat import flat


def sagnet(*, weight: ArrayLike = 0.1) -> Objective:
  """Style-agnostic networks (SagNet): content tells the class, style does not.

  The classifier learns from embeddings of other styles, a second one from
  embeddings of other contents, and the embeddings to give that one no hint
  (`kdjax.generalization.sagnet_adversarial_loss`). One step here is three
  steps of three Adams in DomainBed.

  Args:
    weight: of the adversary, kept in the state; 0.1 in DomainBed.

  Returns:
    An objective which includes the task.

  Raises:
    ValueError: if the student returns no embedding or no classifier.

  References:
    Nam et al., `Reducing domain gap by reducing style bias
    <https://arxiv.org/abs/1910.11645>`_, 2021.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Linear(embedding.shape[-1], logits.shape[-1], rngs=rngs)

  def loss(
    style: Any,
    student_embedding: Array,
    student_classifier: Any,
    labels: Array,
    where: Array,
    *,
    weight: Array,
    key: Array,
    axis_name: str | None,
  ) -> Array:
    kernel, bias = student_classifier
    features, labels, where = map(flat, (student_embedding, labels, where))
    keys = jax.random.split(key, 3)

    def swap(features: Array, key: Array, part: str) -> Array:
      return generalization.sagnet_randomize(
        features=features, key=key, part=part, where=where
      )

    content = swap(features, keys[0], "style") @ kernel + bias[None]
    held = jax.lax.stop_gradient(features)
    told = style(swap(held, keys[1], "content"))
    fooled = frozen(style)(swap(features, keys[2], "content"))
    losses = ops.cross_entropy(content, labels) + ops.cross_entropy(
      told, labels
    )
    adversary = generalization.sagnet_adversarial_loss(fooled)
    return ops.masked_mean(
      losses + weight * adversary, where, axis_name=axis_name
    )

  return modular(build, loss, weight=weight)
