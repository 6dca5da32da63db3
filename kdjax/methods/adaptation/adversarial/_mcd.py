"""Maximum classifier discrepancy (MCD)."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation.adversarial._players import Game


def mcd(
  *,
  hidden: Sequence[int] = (),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
) -> Objective:
  """Maximum classifier discrepancy (MCD): two classifiers that disagree.

  Both learn the source's labels and, on the target, to disagree as much as
  they can; the features, behind a gradient reversal, leave them no room. The
  authors alternate three steps; here one step does it, which
  `kdjax.ops.reverse_gradient` makes possible. The trained student
  answers by the mean of both classifiers' logits.

  Args:
    hidden: units of each classifier's hidden layers.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step; 1 without.

  Returns:
    An objective which includes the classifiers' cross-entropies. Its published
    weight is 1; the student's own classifier takes no part.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Saito et al., `Maximum classifier discrepancy for unsupervised domain
    adaptation <https://arxiv.org/abs/1712.02560>`_, 2018.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = embedding.shape[-1], *hidden, logits.shape[-1]
    return Game(rngs, first=widths, second=widths)

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    other = ops.reverse_gradient(target_embedding, game.turn(scale, schedule))
    heads = game.first, game.second
    first, second = (
      ops.cross_entropy(head(source_embedding), source_labels) for head in heads
    )
    apart = adaptation.classifier_discrepancy(
      *(jax.nn.softmax(head(other)) for head in heads)
    )
    return ops.masked_mean(
      first + second, where_source, axis_name=axis_name
    ) - ops.masked_mean(apart, where_target, axis_name=axis_name)

  def predict(game: Any, embedding: Array) -> Array:
    return (game.first(embedding) + game.second(embedding)) / 2

  return modular(build, loss, predict=predict, scale=scale)
