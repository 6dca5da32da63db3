"""Source hypothesis transfer (SHOT)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods.adaptation._row_kinds import row


def _shot(num_examples: int, *, weight: ArrayLike = 0.3) -> Objective:
  """Information maximization, and the student's pseudo-labels, by centroids.

  The labels of all target examples are the state and come from
  `kdjax.adaptation.centroid_pseudo_labels` at every `renew(state, {"target":
  outputs})`, before each epoch in the paper. An `"index"` in the target's batch
  is below `num_examples`. The classifier gets no gradient.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    labels = jnp.zeros(num_examples, jnp.int32)
    return {}, {"labels": labels, "weight": jnp.asarray(weight, float)}

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key

    def read(name: str) -> Any:
      return resolve("shot", f"target_{name}", outputs, batch)

    kernel, bias = jax.lax.stop_gradient(read("classifier"))
    mask = read("mask")
    logits = widen(read("embedding")) @ kernel + bias[None]
    known = adaptation.information_maximization_loss(
      logits, where=mask, axis_name=axis_name
    )
    pseudo = ops.cross_entropy(logits, state["labels"][read("index")])
    pseudo = ops.masked_mean(pseudo, mask, axis_name=axis_name)
    loss = known + state["weight"] * pseudo
    return loss, state, loss_metric(loss, {"mask": mask})

  def renew(state: Any, outputs: Any) -> Any:
    target = outputs["target"]
    labels = adaptation.centroid_pseudo_labels(
      widen(target.embedding), widen(target.logits)
    )
    return state | {"labels": labels}

  return Objective(init, apply, renew=renew)


ROWS = {
  "shot": row(
    "SHOT",
    "no source: sure predictions, and pseudo-labels by centroids",
    _shot,
    weight=0.3,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    source="authors",
  ),
}
