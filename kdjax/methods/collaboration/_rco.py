"""RCO: checkpoints along the route of a teacher."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, distillation, ops
from kdjax.methods._objective import (
  Metrics,
  Objective,
  as_hyperparameters,
  batch_mean,
  loss_metric,
  widen,
)
from kdjax.methods.collaboration._peers import peer_logits
from kdjax.methods.collaboration._row_kinds import taught


def _rco(steps: int, *, temperature: ArrayLike = 4.0) -> Objective:
  """RCO: `teacher_0`, `teacher_1` ... are checkpoints of one teacher."""
  ops.check_integer("rco: steps", steps, 1)

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    numbers = as_hyperparameters({"temperature": temperature})
    return {}, {"step": jnp.zeros((), jnp.int32)} | numbers

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
    ours = widen(ops.get_entry("rco: outputs", outputs, "student").logits)
    anchors = widen(peer_logits(outputs, "teacher"))
    anchor = collaboration.route_anchor(
      state["step"], steps=steps, num_anchors=len(anchors)
    )
    values = distillation.soft_target_loss(
      ours, anchors[anchor], temperature=state["temperature"]
    )
    value = batch_mean(values, batch, axis_name, _rco)
    state = state | {"step": state["step"] + 1}
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


ROWS = {
  "rco": taught(
    "RCO",
    "checkpoints along the teacher's path teach one after the other",
    _rco,
    networks=("teacher_0", "teacher_1"),
    weight=0.9,
    cross_entropy=0.1,
    source="KD's: the authors published no code",
  ),
}
