"""Gradual self-training, domain by domain."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen


def gradual_self_training(
  num_examples: int, *, drop: ArrayLike = 0.1
) -> Objective:
  """Gradual self-training: pseudo-labels of the examples that are confident.

  The cross-entropy with the student's own labels of one domain after another,
  its state. They come from `kdjax.adaptation.confident_pseudo_labels`
  whenever the caller asks for `renew(state, {"target": outputs})`, of all
  examples of the next domain. The student starts as the network trained on the
  source.

  Args:
    num_examples: of a domain; an `"index"` in the target's batch is below it.
    drop: the share of the examples that is left out, kept in the state.

  Returns:
    An objective of the role `"target"`; its published weight is 1.

  Raises:
    ValueError: from `apply`, if the batch has no index.

  References:
    Kumar, Ma and Liang, `Understanding self-training for gradual domain
    adaptation <https://arxiv.org/abs/2002.11361>`_, 2020.
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
