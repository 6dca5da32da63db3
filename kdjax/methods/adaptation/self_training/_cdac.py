"""Cross-domain adaptive clustering (CDAC)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.adaptation._row_kinds import row
from kdjax.methods.adaptation.self_training._prototypes import (
  Prototypes,
  by_prototypes,
)


def _cdac(
  *,
  weight: ArrayLike = 1.0,
  threshold: ArrayLike = 0.95,
  consistency: ArrayLike = 30.0,
  ramp_steps: ArrayLike = 1000.0,
  temperature: ArrayLike = 0.05,
  num_largest: int = 5,
) -> Objective:
  """`kdjax.adaptation.cdac_loss` of a classifier by prototypes.

  Beside it: the task, pseudo-labels for the second strong view, and the squared
  difference of both strong views' probabilities, whose weight `consistency`
  rises over `ramp_steps`: 1,000 in Dassl, 20,000 in the authors' script.
  """

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    target_strong_embedding: Array,
    target_strong_2_embedding: Array,
    source_labels: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    threshold: Array,
    consistency: Array,
    ramp_steps: Array,
    axis_name: str | None,
  ) -> Array:
    classify = functools.partial(game.classify, temperature=temperature)

    def mean(values: Array) -> Array:
      return ops.masked_mean(values, where_target, axis_name=axis_name)

    views = target_embedding, target_strong_embedding
    task = ops.cross_entropy(classify(source_embedding), source_labels)
    clustering = adaptation.cdac_loss(
      target_embedding,
      *(classify(ops.reverse_gradient(x)) for x in views),
      num_largest=num_largest,
      where=where_target,
      axis_name=axis_name,
    )
    weak, strong, other = map(classify, (*views, target_strong_2_embedding))
    pseudo = adaptation.fixmatch_loss(other, weak, threshold=threshold)
    gap = jax.nn.softmax(strong) - jax.nn.softmax(other)
    ramp = game.turn(
      consistency,
      lambda step: adaptation.sigmoid_ramp_up(step, length=ramp_steps),
    )
    return (
      ops.masked_mean(task, where_source, axis_name=axis_name)
      + weight * clustering
      + mean(pseudo)
      + ramp * mean(jnp.mean(gap**2, -1))
    )

  return modular(
    Prototypes,
    loss,
    predict=by_prototypes(temperature),
    weight=weight,
    threshold=threshold,
    consistency=consistency,
    ramp_steps=ramp_steps,
  )


ROWS = {
  "cdac": row(
    "CDAC",
    "as MME, by pairs of examples that are alike, with pseudo-labels",
    _cdac,
    cross_entropy=0.0,
    views=("strong", "strong_2"),
    source="Dassl",
  ),
}
