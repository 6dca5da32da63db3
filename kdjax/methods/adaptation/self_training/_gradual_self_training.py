"""Gradual self-training, domain by domain."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods._row import Search
from kdjax.methods.adaptation._row_kinds import row


def _gradual_self_training(
  num_examples: int, *, drop: ArrayLike = 0.1
) -> Objective:
  """Cross-entropy with the student's own labels, domain after domain.

  They come from `kdjax.adaptation.confident_pseudo_labels` at every
  `renew(state, {"target": outputs})`, of all examples of the next domain, which
  has `num_examples`; an `"index"` in the target's batch is below it. The share
  `drop` of them, the least confident, is left out.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    return {}, {
      "labels": jnp.zeros(num_examples, jnp.int32),
      "kept": jnp.ones(num_examples, bool),
      "drop": jnp.asarray(drop, float),
    }

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
    logits, index, mask = (
      widen(resolve("gradual_self_training", name, outputs, batch))
      for name in ("target_logits", "target_index", "where_target")
    )
    mask = mask & state["kept"][index]
    losses = ops.cross_entropy(logits, state["labels"][index])
    loss = ops.masked_mean(losses, mask, axis_name=axis_name)
    return loss, state, loss_metric(loss, {"mask": mask})

  def renew(state: Any, outputs: Any) -> Any:
    logits = widen(outputs["target"].logits)
    labels, kept, _ = adaptation.confident_pseudo_labels(
      logits, drop=state["drop"]
    )
    return state | {"labels": labels, "kept": kept}

  return Objective(init, apply, renew=renew)


ROWS = {
  "gradual_self_training": row(
    "gradual self-training",
    "from domain to domain, by the labels that are confident",
    _gradual_self_training,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    tuned="drop",
    search=Search(0.1),
    source="authors",
  ),
}
