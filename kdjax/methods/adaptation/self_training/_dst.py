"""Debiased self-training (DST)."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule
from kdjax.methods.adaptation.adversarial._players import Game


def dst(
  *,
  hidden: Sequence[int] = (1024,),
  eta: ArrayLike = 2.0,
  threshold: ArrayLike = 0.7,
  scale: ArrayLike = 0.1,
  schedule: Schedule | None = None,
) -> Objective:
  """Debiased self-training (DST): a head for pseudo-labels, one for the worst.

  Pseudo-labels of the student's own head, which never learns from them, train
  a second one on the strong view; a third, behind a gradient reversal, is
  right on the source and as wrong as it can be on the target
  (`kdjax.adaptation.dst_loss`).

  Args:
    hidden: units of each added head's hidden layers; TLlib's have 2048.
    eta: of the worst head on the source, kept in the state.
    threshold: of the pseudo-labels, kept in the state.
    scale: of the reversed gradient, kept in the state; TLlib's rises to 0.1.
    schedule: a factor of it by the step; 1 without.

  Returns:
    An objective of the roles `"source"`, `"target"` and `"target_strong"`; its
    published weight is 1, beside the cross-entropy of the source.

  Raises:
    ValueError: if the student returns no embedding, or from `apply` if there
      is no view `"strong"`.

  References:
    Chen et al., `Debiased self-training for semi-supervised learning
    <https://arxiv.org/abs/2202.07136>`_, 2022.
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
