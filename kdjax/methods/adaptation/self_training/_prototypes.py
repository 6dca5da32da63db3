"""A classifier by prototypes, which takes the place of the student's."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation
from kdjax.methods.adaptation.adversarial._players import Game
from kdjax.nets import layers


class Prototypes(Game):
  """A linear classifier without bias, of embeddings of length 1."""

  def __init__(self, embedding: Any, logits: Any, rngs: nnx.Rngs):
    super().__init__(rngs)
    widths = embedding.shape[-1], logits.shape[-1]
    self.head = layers.linear(*widths, use_bias=False, rngs=rngs)

  @property
  def rows(self) -> Array:
    """The prototypes, `[classes, dims]`."""
    return self.head.kernel[...].T

  def classify(self, embeddings: Array, temperature: ArrayLike) -> Array:
    """The logits of embeddings."""
    return adaptation.prototype_logits(
      embeddings, self.rows, temperature=temperature
    )


def by_prototypes(temperature: ArrayLike) -> Any:
  """Returns how a student answers whose classifier is the prototypes."""

  def predict(game: Any, embedding: Array) -> Array:
    return game.classify(embedding, temperature)

  return predict
