"""Fish: inner steps domain by domain, then part of the way there."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._gradient_rule import GradientRule
from kdjax.methods.generalization._domain_rules import (
  Loss,
  of_domain,
  optax_update,
)


def fish_gradients(
  inner: optax.GradientTransformation, *, meta_step_size: ArrayLike = 0.5
) -> GradientRule:
  """Gradient rule of Fish: minus the way that inner steps have gone.

  By `kdjax.generalization.fish`; the first axis of every entry of the
  batch is that of the domains. The learner's optimizer is `optax.sgd(1.0)`,
  which goes that way. Metrics and batch statistics are those of one more
  forward pass, of all domains.

  Args:
    inner: the optimizer of the inner steps, whose state goes on from step to
      step; Adam in DomainBed.
    meta_step_size: epsilon, the part of the way, kept in the rule's state; 0.5
      in DomainBed.

  Returns:
    A rule for `kdjax.training.generalize`.

  References:
    Shi et al., `Gradient matching for domain generalization
    <https://arxiv.org/abs/2104.09937>`_, 2022.
  """

  def init(params: Any) -> Any:
    size = jnp.asarray(meta_step_size, float)
    return {"inner": inner.init(params), "meta_step_size": size}

  def apply(
    loss: Loss,
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[tuple[Array, Any], Any, Mapping[str, Any], Any]:
    del key
    result = generalization.fish(
      of_domain(loss),
      params,
      batch,
      inner_update=optax_update(inner, axis_name),
      inner_state=state["inner"],
      meta_step_size=state["meta_step_size"],
    )
    way = jax.tree.map(lambda old, new: old - new, params, result.params)
    return loss(params, batch), way, {}, state | {"inner": result.state}

  return GradientRule(init, apply)
