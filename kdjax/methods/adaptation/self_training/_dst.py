"""Debiased self-training (DST)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation._row_kinds import adversary, rising
from kdjax.methods.adaptation.adversarial._players import Game


def _dst(
  *,
  hidden: Sequence[int] = (1024,),
  eta: ArrayLike = 2.0,
  threshold: ArrayLike = 0.7,
  scale: ArrayLike = 0.1,
  schedule: Schedule | None = None,
) -> Objective:
  """`kdjax.adaptation.dst_loss`, and a head for pseudo-labels of a strong view.

  The student's own head, which never learns from them, gives the pseudo-labels.
  TLlib's added heads have 2048 hidden units, and its reversal rises to 0.1.
  """

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = embedding.shape[-1], *hidden, logits.shape[-1]
    return Game(rngs, pseudo=widths, worst=widths)

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    target_strong_embedding: Array,
    source_logits: Array,
    target_logits: Array,
    where_source: Array,
    where_target: Array,
    *,
    eta: Array,
    threshold: Array,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    taught = adaptation.fixmatch_loss(
      game.pseudo(target_strong_embedding), target_logits, threshold=threshold
    )
    rivals = ops.reverse_gradient(
      (source_embedding, target_embedding), game.turn(scale, schedule)
    )
    labeled, unlabeled = map(game.worst, rivals)
    worst = adaptation.dst_loss(
      source_logits,
      labeled,
      target_logits,
      unlabeled,
      eta=eta,
      where_labeled=where_source,
      where_unlabeled=where_target,
      axis_name=axis_name,
    )
    return worst + ops.masked_mean(taught, where_target, axis_name=axis_name)

  return modular(build, loss, eta=eta, threshold=threshold, scale=scale)


ROWS = {
  "dst": adversary(
    "DST",
    "a head of its own learns from pseudo-labels, beside the worst one",
    rising(_dst),
    scale=0.1,
    views=("strong",),
  ),
}
