"""FlexMatch: pseudo-labels with a threshold for each class."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods.adaptation._row_kinds import row


def _flexmatch(
  num_examples: int,
  *,
  threshold: ArrayLike = 0.95,
) -> Objective:
  """FixMatch with thresholds of classes by which examples were confident.

  An `"index"` in the target's batch, below `num_examples`, names the example.
  The loss comes before the counts move, as in USB.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key
    classes = ops.get_entry("flexmatch: outputs", specs, "target").logits.shape[
      -1
    ]
    seen = adaptation.flexmatch_init(
      num_examples=num_examples, num_classes=classes
    )
    return {}, {"seen": seen, "threshold": jnp.asarray(threshold, float)}

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
    strong, weak, mask, index = (
      widen(resolve("flexmatch", name, outputs, batch))
      for name in (
        "target_strong_logits",
        "target_logits",
        "where_target",
        "target_index",
      )
    )
    least = state["threshold"]
    seen = adaptation.FlexMatchState(*state["seen"])
    losses = adaptation.fixmatch_loss(
      strong,
      weak,
      threshold=adaptation.flexmatch_thresholds(seen, weak, threshold=least),
    )
    value = ops.masked_mean(losses, mask, axis_name=axis_name)
    logits, index, where = (
      ops.gather_batch(x, axis_name) for x in (weak, index, mask)
    )
    seen = adaptation.flexmatch_update(
      seen, logits, index, threshold=least, where=where
    )
    if axis_name is not None:
      # The same on all devices: this tells JAX so.
      seen = jax.tree.map(lambda x: jax.lax.pmax(x, axis_name), seen)
    return value, state | {"seen": seen}, loss_metric(value, {"mask": mask})

  return Objective(init, apply)


ROWS = {
  "flexmatch": row(
    "FlexMatch",
    "as FixMatch, with a threshold for each class",
    _flexmatch,
    views=("strong",),
  ),
}
