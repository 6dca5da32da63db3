"""Importance-weighted adversarial nets (IWAN)."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops, reweighting
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation.adversarial._players import Game


def iwan(
  *,
  hidden: Sequence[int] = (1024, 1024),
  weight: ArrayLike = 3.0,
  entropy: ArrayLike = 0.1,
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
) -> Objective:
  r"""Importance-weighted adversarial nets (IWAN), for partial domains.

  .. math::
    \ell = 1.5\, w\, \ell_D + w\, \ell_{D_0} + \gamma\, H(p_T)

  A first discriminator D of the embeddings, from which the student gets no
  gradient, weighs the source by `kdjax.reweighting.iwan_weights`; the
  second one, D_0, behind a gradient reversal, sees the weighted source.

  Args:
    hidden: units of the discriminators' hidden layers.
    weight: w, kept in the state.
    entropy: gamma, of the target's entropy, kept in the state.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step; 1 without.

  Returns:
    An objective, beside the cross-entropy of the source. The weights are
    TLlib's.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Zhang et al., `Importance weighted adversarial nets for partial domain
    adaptation <https://arxiv.org/abs/1803.09210>`_, 2018.
  """

  def build(embedding: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = embedding.shape[-1], *hidden, 1
    return Game(rngs, first=widths, second=widths)

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    target_logits: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    entropy: Array,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    embeddings = source_embedding, target_embedding
    options = {
      "scaling": "mean",
      "where_source": where_source,
      "where_target": where_target,
      "axis_name": axis_name,
    }
    logits = [game.first(x) for x in jax.lax.stop_gradient(embeddings)]
    weights = reweighting.iwan_weights(
      logits[0], where=where_source, axis_name=axis_name
    )
    turn = game.turn(scale, schedule)
    rivals = map(game.second, ops.reverse_gradient(embeddings, turn))
    unsure = adaptation.entropy_loss(target_logits)
    return (
      1.5 * weight * adaptation.dann_loss(*logits, **options)
      + weight
      * adaptation.dann_loss(*rivals, source_weights=weights, **options)
      + entropy * ops.masked_mean(unsure, where_target, axis_name=axis_name)
    )

  return modular(build, loss, weight=weight, entropy=entropy, scale=scale)
