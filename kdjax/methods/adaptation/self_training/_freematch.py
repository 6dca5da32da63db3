"""FreeMatch: thresholds that follow the student's own confidence."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods.adaptation._row_kinds import row


def _freematch(
  *, momentum: ArrayLike = 0.999, entropy_weight: ArrayLike = 0.01
) -> Objective:
  """Pseudo-labels above the mean confidence, scaled by class, and fairness.

  The mean confidence, the mean prediction and the histogram of predicted
  classes are the state and move before the mask, as in USB. The fairness term
  has USB's sign: the sum of p log p_bar, with `entropy_weight`.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key
    found = ops.get_entry("freematch: outputs", specs, "target")
    classes = found.logits.shape[-1]
    uniform = jnp.ones(classes) / classes
    return {}, {
      "confidence": jnp.ones(()) / classes,
      "mean": uniform,
      "histogram": uniform,
      "momentum": jnp.asarray(momentum, float),
      "entropy_weight": jnp.asarray(entropy_weight, float),
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
    strong, weak, mask = (
      widen(resolve("freematch", name, outputs, batch))
      for name in ("target_strong_logits", "target_logits", "where_target")
    )
    p = jax.lax.stop_gradient(jax.nn.softmax(weak))
    labels, top = jnp.argmax(p, -1), jnp.max(p, -1)

    def shares(values: Array, where: Array) -> Array:
      rows = jnp.where(where[:, None], values, 0.0)
      sums, count = ops.sum_over_devices(
        (jnp.sum(rows, 0), jnp.sum(where)), axis_name
      )
      return sums / jnp.maximum(count, 1)

    classes = p.shape[-1]
    seen = {
      "confidence": ops.masked_mean(top, mask, axis_name=axis_name),
      "mean": shares(p, mask),
      "histogram": shares(jax.nn.one_hot(labels, classes), mask),
    }
    share = state["momentum"]
    moved = {k: share * state[k] + (1 - share) * v for k, v in seen.items()}
    relative = moved["mean"] / jnp.max(moved["mean"])
    sure = mask & (top >= moved["confidence"] * relative[labels])
    losses = jnp.where(sure, ops.cross_entropy(strong, labels), 0.0)
    value = ops.masked_mean(losses, mask, axis_name=axis_name)
    q = jax.nn.softmax(strong)
    hits = shares(jax.nn.one_hot(jnp.argmax(q, -1), classes), sure)
    prior = _normalized(moved["mean"], moved["histogram"])
    answers = _normalized(shares(q, sure), jax.lax.stop_gradient(hits))
    fairness = jnp.sum(prior * jnp.log(answers + 1e-12))
    any_sure = ops.sum_over_devices(jnp.sum(sure), axis_name) > 0
    value += state["entropy_weight"] * jnp.where(any_sure, fairness, 0.0)
    return value, state | moved, loss_metric(value, {"mask": mask})

  return Objective(init, apply)


def _normalized(shares: Array, histogram: Array) -> Array:
  """Shares over a histogram, where it is not 0, of sum 1."""
  found = histogram > 0
  ratio = jnp.where(found, shares / jnp.where(found, histogram, 1.0), 0.0)
  total = jnp.sum(ratio)
  return ratio / jnp.where(total > 0, total, 1.0)


ROWS = {
  "freematch": row(
    "FreeMatch",
    "as FixMatch, above a confidence that rises with the student's own",
    _freematch,
    views=("strong",),
    source="USB",
  )
}
