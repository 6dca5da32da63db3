"""Patient knowledge distillation (PKD)."""

import jax.numpy as jnp
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._hidden_states import (
  hidden_states,
)
from kdjax.methods.language._row_kinds import row


def _pkd(*, kind: str = "skip") -> Objective:
  """By `kdjax.distillation.pkd_loss`, of the first tokens of several layers.

  `kind` is "skip" for every k-th layer or "last" for the last ones; the last
  layer of the student is not compared. As in the authors' code the sum over the
  layers is divided by their number. The published weight is 10 to 1000, by
  task.
  """
  ops.check_choice("kind", kind, ("skip", "last"))

  def loss(student: nets.Outputs, teacher: nets.Outputs) -> Array:
    ours, theirs = hidden_states("pkd", student, teacher)
    count, depth = len(ours) - 1, len(theirs) - 1
    if kind == "skip":
      layers = language.layer_map(count, depth, "skip")
    else:
      layers = tuple(range(depth - count, depth - 1))
    values = [
      distillation.pkd_loss(ours[i + 1], theirs[layer + 1])
      for i, layer in enumerate(layers)
    ]
    return sum(values, jnp.zeros(ours[0].shape[0])) / max(len(values), 1)

  return stateless(loss)


ROWS = {
  "pkd": row(
    "PKD, Sun 2019",
    "first tokens of every k-th layer, beside soft predictions",
    _pkd,
    weight=100.0,
    cross_entropy=0.5,
    kd=0.5,
    temperature=10.0,
    source="paper, the middle of the searched ranges",
  ),
}
