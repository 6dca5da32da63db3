"""SoftMatch: pseudo-labels that are weighted by their confidence."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods.adaptation._row_kinds import row


def _softmatch(
  *, momentum: ArrayLike = 0.999, sigmas: ArrayLike = 2.0, align: bool = True
) -> Objective:
  """Weights by a Gaussian of the confidence below its mean.

  Mean and variance (over n - 1) are the state and move before the weights, as
  in USB. With `align` the predictions are first aligned with the uniform
  distribution; labels are those of the predictions as they are.
  """

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key
    found = ops.get_entry("softmatch: outputs", specs, "target")
    classes = found.logits.shape[-1]
    return {}, {
      "mean": jnp.ones(()) / classes,
      "variance": jnp.ones(()),
      "prediction": jnp.zeros(classes),
      "step": jnp.zeros((), jnp.int32),
      "momentum": jnp.asarray(momentum, float),
      "sigmas": jnp.asarray(sigmas, float),
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
      widen(resolve("softmatch", name, outputs, batch))
      for name in ("target_strong_logits", "target_logits", "where_target")
    )
    p = jax.lax.stop_gradient(jax.nn.softmax(weak))
    labels, share = jnp.argmax(p, -1), state["momentum"]
    moved = {"step": state["step"] + 1}
    if align:
      sums, count = ops.sum_over_devices(
        (jnp.sum(jnp.where(mask[:, None], p, 0.0), 0), jnp.sum(mask)), axis_name
      )
      mean = sums / jnp.maximum(count, 1)
      old = jnp.where(state["step"] == 0, mean, state["prediction"])
      moved["prediction"] = share * old + (1 - share) * mean
      p = p * (1 / p.shape[-1] + 1e-6) / (moved["prediction"] + 1e-6)[None]
      p = p / jnp.sum(p, -1, keepdims=True)
    top = jnp.max(p, -1)
    mean = ops.masked_mean(top, mask, axis_name=axis_name)
    gaps = jnp.where(mask, (top - mean) ** 2, 0.0)
    total, count = ops.sum_over_devices(
      (jnp.sum(gaps), jnp.sum(mask)), axis_name
    )
    variance = total / jnp.maximum(count - 1, 1)
    moved["mean"] = share * state["mean"] + (1 - share) * mean
    moved["variance"] = share * state["variance"] + (1 - share) * variance
    below = jnp.minimum(top - moved["mean"], 0.0) ** 2
    weights = jnp.exp(-below * state["sigmas"] ** 2 / (2 * moved["variance"]))
    losses = weights * ops.cross_entropy(strong, labels)
    value = ops.masked_mean(losses, mask, axis_name=axis_name)
    return value, state | moved, loss_metric(value, {"mask": mask})

  return Objective(init, apply)


ROWS = {
  "softmatch": row(
    "SoftMatch",
    "as FixMatch, unsure pseudo-labels weigh less",
    _softmatch,
    views=("strong",),
    source="USB",
  )
}
