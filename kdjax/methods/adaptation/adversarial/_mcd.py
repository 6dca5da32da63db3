"""Maximum classifier discrepancy (MCD)."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._method import Method, Update
from kdjax.methods._modular import modular
from kdjax.methods._updates import Turn, alternate
from kdjax.methods.adaptation._row_kinds import over_training, row
from kdjax.methods.adaptation.adversarial._players import Game


def _mcd(
  steps: ArrayLike | None = None,
  *,
  hidden: Sequence[int] = (),
  feature_steps: int = 4,
  entropy_weight: ArrayLike = 0.0,
  form: str = "steps",
  scale: ArrayLike = 1.0,
) -> Method:
  """Two classifiers of embeddings that disagree on the target.

  The form "steps" takes three steps a batch: all by the source's labels; the
  classifiers away from each other; the features, `feature_steps` times. The
  form "reversal" takes one step, with a gradient reversal that rises to `scale`
  over the training's `steps`. `entropy_weight` is that of
  `kdjax.adaptation.class_balance_loss` of both classifiers, in the first two
  steps: 0.01 in TLlib, 0 in Dassl. The student answers by the mean of both
  classifiers' logits; Dassl's answers by the first one.
  """
  ops.check_choice("mcd: form", form, ("steps", "reversal"))
  if form == "reversal" and steps is None:
    raise ValueError(
      "create: mcd's reversal rises over the whole training; expected steps, "
      "as in create('mcd', form='reversal', steps=...)."
    )

  def build(embedding: Any, logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    widths = embedding.shape[-1], *hidden, logits.shape[-1]
    return Game(rngs, first=widths, second=widths)

  def predict(game: Any, embedding: Array) -> Array:
    return (game.first(embedding) + game.second(embedding)) / 2

  def parts(
    game: Any,
    source: Array,
    target: Array,
    labels: Array,
    where_source: Array,
    where_target: Array,
    entropy_weight: Array,
    axis_name: str | None,
  ) -> tuple[Array, Array]:
    """The classifiers' task, and their discrepancy."""
    heads = game.first, game.second
    where = {"where": where_target, "axis_name": axis_name}
    p = [jax.nn.softmax(head(target)) for head in heads]
    task: Any = sum(ops.cross_entropy(head(source), labels) for head in heads)
    task = ops.masked_mean(task, where_source, axis_name=axis_name)
    balance = sum(adaptation.class_balance_loss(x, **where) for x in p)
    apart = adaptation.classifier_discrepancy(*p)
    apart = ops.masked_mean(apart, where_target, axis_name=axis_name)
    return task + entropy_weight * balance, apart

  def labels(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    entropy_weight: Array,
    axis_name: str | None,
  ) -> Array:
    return parts(
      game,
      source_embedding,
      target_embedding,
      source_labels,
      where_source,
      where_target,
      entropy_weight,
      axis_name,
    )[0]

  def classifiers(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    entropy_weight: Array,
    axis_name: str | None,
  ) -> Array:
    task, apart = parts(
      game,
      source_embedding,
      target_embedding,
      source_labels,
      where_source,
      where_target,
      entropy_weight,
      axis_name,
    )
    return task - apart

  def features(
    game: Any,
    target_embedding: Array,
    where_target: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    heads = game.first, game.second
    p = [jax.nn.softmax(head(target_embedding)) for head in heads]
    apart = adaptation.classifier_discrepancy(*p)
    return ops.masked_mean(apart, where_target, axis_name=axis_name)

  def reversal(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    entropy_weight: Array,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    assert steps is not None
    turn = game.turn(scale, over_training(steps))
    task, apart = parts(
      game,
      source_embedding,
      ops.reverse_gradient(target_embedding, turn),
      source_labels,
      where_source,
      where_target,
      entropy_weight,
      axis_name,
    )
    return task - apart

  if form == "reversal":
    return Method(
      modular(
        build,
        reversal,
        predict=predict,
        entropy_weight=entropy_weight,
        scale=scale,
      )
    )
  losses = {"labels": labels, "classifiers": classifiers, "features": features}
  return Method(
    modular(build, losses, predict=predict, entropy_weight=entropy_weight),
    update=three_steps(feature_steps),
  )


def three_steps(feature_steps: int) -> Update:
  """MCD's update: all by labels, the classifiers apart, the features."""
  ops.check_integer("feature_steps", feature_steps, 1)
  return alternate(
    Turn("labels"),
    Turn("classifiers", moves=("objective",)),
    Turn("features", moves=("student",), times=feature_steps),
  )


ROWS = {
  "mcd": row(
    "MCD",
    "two classifiers disagree on the target, the features prevent it",
    _mcd,
    cross_entropy=0.0,
    tuned="",
  )
}
