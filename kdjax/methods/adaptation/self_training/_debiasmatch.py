"""DebiasMatch: pseudo-labels without the classes' bias."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._method import Method, Pass
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen
from kdjax.methods.adaptation._row_kinds import row


def _debiasmatch(
  *,
  weight: ArrayLike = 1.0,
  strong: ArrayLike = 0.1,
  strength: ArrayLike = 1.0,
  momentum: ArrayLike = 0.999,
  threshold: ArrayLike = 0.95,
) -> Method:
  """FixMatch of logits from `kdjax.adaptation.debias_logits`.

  The mean prediction is the state and moves before the loss, as in TLlib.
  `strong` is the weight of the cross-entropy of the source's strong view,
  `strength` that of the correction: 1 in TLlib, 0.5 in the authors' script.
  """
  numbers = {
    "weight": weight,
    "strong": strong,
    "strength": strength,
    "momentum": momentum,
    "threshold": threshold,
  }

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key
    classes = ops.get_entry(
      "debiasmatch: outputs", specs, "target"
    ).logits.shape[-1]
    state = {k: jnp.asarray(v, float) for k, v in numbers.items()}
    return {}, state | {"prior": jnp.ones(classes) / classes}

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
      return widen(resolve("debiasmatch", name, outputs, batch))

    weak, mask = read("target_logits"), read("where_target")
    prior = adaptation.debias_update(
      state["prior"],
      weak,
      momentum=state["momentum"],
      where=mask,
      axis_name=axis_name,
    )
    pseudo = adaptation.fixmatch_loss(
      adaptation.debias_logits(
        read("target_strong_logits"), prior, strength=state["strength"]
      ),
      adaptation.debias_logits(weak, prior, strength=-state["strength"]),
      threshold=state["threshold"],
    )
    known = ops.cross_entropy(
      read("source_strong_logits"), read("source_labels")
    )
    where_source = read("where_source")
    loss = state["strong"] * ops.masked_mean(
      known, where_source, axis_name=axis_name
    ) + state["weight"] * ops.masked_mean(pseudo, mask, axis_name=axis_name)
    return loss, state | {"prior": prior}, loss_metric(loss, {"mask": mask})

  strong_source = Pass(on="source.strong", train=True)
  passes = {"source_strong": strong_source}
  return Method(Objective(init, apply), passes=passes)


ROWS = {
  "debiasmatch": row(
    "DebiasMatch",
    "as FixMatch, less of the classes that are predicted too often",
    _debiasmatch,
    views=("strong",),
  ),
}
