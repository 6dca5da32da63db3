"""DELTA: deep learning transfer with attention to features."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import finetuning, ops
from kdjax.methods._combine import combine
from kdjax.methods._objective import (
  Metrics,
  Objective,
  batch_mean,
  loss_metric,
  widen,
)
from kdjax.methods._stages import field_of
from kdjax.methods.finetuning._l2_sp import _l2_sp
from kdjax.methods.finetuning._row_kinds import row


def _delta(
  attention: Mapping[str, ArrayLike] | None = None,
  *,
  weight: ArrayLike = 0.48,
  head_weight: ArrayLike = 0.01,
  heads: Sequence[str] = ("head",),
) -> Objective:
  """DELTA: features stay near those of the pretrained network.

  The `kdjax.finetuning.delta_loss` summed over all features of the same
  name, and the penalty of the new head that `l2_sp` has.

  Args:
    attention: feature -> attention to its channels, from
      `kdjax.finetuning.delta_channel_attention`, kept in the state; None
      for the behavioral penalty, without attention.
    weight: of the features, kept in the state.
    head_weight: of the new head's parameters, kept in the state.
    heads: names in the paths of parameters that are new.

  Returns:
    An objective of the roles `"student"` and `"past"`, beside the
    cross-entropy. Published weights: 0.01 for both in TLlib, which sums over
    the 48 examples of a batch: 0.48 here.

  Raises:
    ValueError: from `apply`, if a feature has no counterpart.

  References:
    Li et al., `DELTA: deep learning transfer using feature map with attention
    for convolutional networks <https://arxiv.org/abs/1901.09229>`_, 2019.
  """
  channels = {k: jnp.asarray(v) for k, v in (attention or {}).items()}

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    return {}, {"attention": channels}

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
    ours, theirs = (
      field_of(role, ops.get_entry("delta: outputs", outputs, role), "features")
      for role in ("student", "past")
    )
    losses = [
      finetuning.delta_loss(
        widen(feature),
        widen(ops.get_entry("delta: the features of past", theirs, name)),
        channel_attention=state["attention"].get(name),
      )
      for name, feature in ours.items()
    ]
    values = jnp.sum(jnp.stack(losses), 0)
    value = batch_mean(values, batch, axis_name, _delta)
    return value, state, loss_metric(value, batch)

  head = _l2_sp(weight=0.0, head_weight=1.0, heads=heads)
  return combine(
    {
      "features": (weight, Objective(init, apply)),
      "head": (head_weight, head),
    }
  )


def _behavior(
  *,
  weight: ArrayLike = 0.48,
  head_weight: ArrayLike = 0.01,
  heads: Sequence[str] = ("head",),
) -> Objective:
  return _delta(weight=weight, head_weight=head_weight, heads=heads)


def _attention(
  attention: Mapping[str, ArrayLike],
  *,
  weight: ArrayLike = 0.48,
  head_weight: ArrayLike = 0.01,
  heads: Sequence[str] = ("head",),
) -> Objective:
  return _delta(attention, weight=weight, head_weight=head_weight, heads=heads)


ROWS = {
  "delta": row(
    "DELTA",
    "the features stay near the pretrained ones",
    _behavior,
    weight=0.48,
    networks=("past",),
    source="TLlib, whose 0.01 is of the sum over 48 examples",
  ),
  "delta_attention": row(
    "DELTA with attention",
    "the features stay near the pretrained ones, channels by what they help",
    _attention,
    weight=0.48,
    networks=("past",),
    source="TLlib, whose 0.01 is of the sum over 48 examples",
  ),
}
