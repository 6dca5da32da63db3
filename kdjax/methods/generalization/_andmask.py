"""ANDMask and SANDMask: the domains' gradients where they agree."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._gradient_rule import GradientRule
from kdjax.methods.generalization._domain_rules import Loss, by_domain


def andmask_gradients(*, threshold: ArrayLike = 1.0) -> GradientRule:
  """Gradient rule of the AND-mask: the mean gradient where domains agree.

  By `kdjax.generalization.andmask`, of the gradients of the domains'
  losses; the first axis of every entry of the batch is that of the domains.

  Args:
    threshold: how much of the domains' signs must agree, kept in the rule's
      state; 1 in DomainBed.

  Returns:
    A rule for `kdjax.training.generalize`.

  References:
    Parascandolo et al., `Learning explanations that are hard to vary
    <https://arxiv.org/abs/2009.00329>`_, 2021.
  """
  return _masked(generalization.andmask, threshold)


def sandmask_gradients(*, threshold: ArrayLike = 0.5) -> GradientRule:
  """Gradient rule of the SAND-mask: a smooth AND-mask.

  As `andmask_gradients`, by `kdjax.generalization.sandmask`.

  Args:
    threshold: of the agreement, kept in the rule's state; 0.5 in DomainBed.

  Returns:
    A rule for `kdjax.training.generalize`.

  References:
    Shahtalebi et al., `SAND-mask: an enhanced gradient masking strategy for the
    discovery of invariances in domain generalization
    <https://arxiv.org/abs/2106.02266>`_, 2021.
  """
  return _masked(generalization.sandmask, threshold)


def _masked(mask: Callable[..., Any], threshold: ArrayLike) -> GradientRule:
  def init(params: Any) -> Any:
    del params
    return {"threshold": jnp.asarray(threshold, float)}

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
    seen, gradients = by_domain(loss, params, batch, axis_name)
    return seen, mask(gradients, threshold=state["threshold"]), {}, state

  return GradientRule(init, apply)
