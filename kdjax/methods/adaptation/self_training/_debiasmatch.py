"""DebiasMatch: pseudo-labels without the classes' bias."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._binding import resolve
from kdjax.methods._objective import Metrics, Objective, loss_metric, widen


def debiasmatch(
  *,
  weight: ArrayLike = 1.0,
  strong: ArrayLike = 0.1,
  strength: ArrayLike = 1.0,
  momentum: ArrayLike = 0.999,
  threshold: ArrayLike = 0.95,
) -> Objective:
  """DebiasMatch: FixMatch with logits that the mean prediction corrects.

  The `kdjax.adaptation.fixmatch_loss` of logits from
  `kdjax.adaptation.debias_logits`; the mean prediction, which moves
  before the loss as in TLlib, is the state.

  Args:
    weight: of the pseudo-labels, kept in the state.
    strong: of the cross-entropy of the source's strong view, kept in the
      state.
    strength: of the correction, kept in the state; 1 in TLlib, 0.5 in the
      authors' script for CIFAR.
    momentum: of the mean prediction, kept in the state.
    threshold: of the pseudo-labels, kept in the state.

  Returns:
    An objective of the roles `"source_strong"`, `"target"` and
    `"target_strong"`, beside the cross-entropy of the source. The weights are
    TLlib's.

  Raises:
    ValueError: from `apply`, if a view is missing.

  References:
    Wang et al., `Debiased learning from naturally imbalanced pseudo-labels
    <https://arxiv.org/abs/2201.01490>`_, 2022.
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

  return Objective(init, apply)
