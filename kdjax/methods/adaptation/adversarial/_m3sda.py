"""Moment matching for many sources (M3SDA)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._method import Method, Pass
from kdjax.methods._modular import modular
from kdjax.methods.adaptation._row_kinds import row
from kdjax.methods.adaptation.adversarial._mcd import three_steps
from kdjax.methods.adaptation.adversarial._players import Game


def _m3sda(
  *,
  weight: ArrayLike = 0.5,
  hidden: Sequence[int] = (),
  feature_steps: int = 4,
) -> Method:
  """A pair of classifiers for each source, `[domains, batch, ...]`.

  MCD's three steps a batch, of the mean over the sources; the first one has
  `weight` times `kdjax.adaptation.m3sda_loss` of all embeddings besides. The
  student answers by the mean probabilities of all classifiers; Dassl's by
  those of the first one of each pair.
  """

  def build(
    outputs: Any, embedding: Any, logits: Any, params: Any, rngs: nnx.Rngs
  ) -> nnx.Module:
    # A trained student answers without the sources.
    sources = outputs["source"].embedding if params is None else params["pairs"]
    domains = len(sources) if params is not None else sources.shape[0]
    widths = embedding.shape[-1], *hidden, logits.shape[-1]
    return _Pairs(domains, widths, rngs)

  def task(
    game: Any, embeddings: Array, labels: Array, where: Array, axis_name: Any
  ) -> Array:
    values = [
      ops.masked_mean(ops.cross_entropy(head(x), y), mask, axis_name=axis_name)
      for pair, x, y, mask in zip(
        game.pairs, embeddings, labels, where, strict=True
      )
      for head in (pair.first, pair.second)
    ]
    return sum(values, jnp.zeros(())) / len(embeddings)

  def apart(game: Any, target: Array, where: Array, axis_name: Any) -> Array:
    values = [
      adaptation.classifier_discrepancy(
        *(jax.nn.softmax(head(target)) for head in (pair.first, pair.second))
      )
      for pair in game.pairs
    ]
    mean = sum(values, jnp.zeros(())) / len(values)
    return ops.masked_mean(mean, where, axis_name=axis_name)

  def labels(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    axis_name: str | None,
  ) -> Array:
    known = task(game, source_embedding, source_labels, where_source, axis_name)
    return known + weight * adaptation.m3sda_loss(
      list(source_embedding),
      target_embedding,
      where_sources=list(where_source),
      where_target=where_target,
      axis_name=axis_name,
    )

  def classifiers(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    known = task(game, source_embedding, source_labels, where_source, axis_name)
    return known - apart(game, target_embedding, where_target, axis_name)

  def features(
    game: Any,
    target_embedding: Array,
    where_target: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    return apart(game, target_embedding, where_target, axis_name)

  def predict(game: Any, embedding: Array) -> Array:
    answers = [
      jax.nn.softmax(head(embedding))
      for pair in game.pairs
      for head in (pair.first, pair.second)
    ]
    return jnp.log(jnp.mean(jnp.stack(answers), 0))

  losses = {"labels": labels, "classifiers": classifiers, "features": features}
  passes = {
    "source": Pass(on="source.*", train=True, joint="domains", batch_axes=2),
    "target": Pass(on="target.*", train=True, joint="domains"),
  }
  return Method(
    modular(build, losses, predict=predict, weight=weight),
    passes=passes,
    update=three_steps(feature_steps),
  )


class _Pairs(nnx.Module):
  """A pair of classifiers for each source."""

  def __init__(self, domains: int, widths: Sequence[int], rngs: nnx.Rngs):
    self.pairs = nnx.List(
      Game(rngs, first=widths, second=widths) for _ in range(domains)
    )


ROWS = {
  "m3sda": row(
    "M3SDA",
    "a pair of classifiers a source; the moments of all domains are equal",
    _m3sda,
    weight=0.5,
    cross_entropy=0.0,
    source="Dassl",
  )
}
