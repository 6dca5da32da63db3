"""Gradient rules: other ways to a gradient than that of the loss."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array


class GradientRule(NamedTuple):
  """Gradient rule: how the optimizer's gradient comes from the loss.

  Attributes:
    init: `(params) -> state`, of the rule.
    apply: `(loss, params, batch, key, state) -> (value, aux), gradients,
      extra, state`, where `loss(params, batch) -> value, aux` is already that
      of all devices and `extra` are extra arguments of the optimizer's update.
      If it has a parameter `axis_name`, it gets the mapped axis: a rule that
      is not linear in the gradients averages them over it first.
    check: `(optimizer_state) -> None`, which raises if the rule cannot work
      with the optimizer; or None.

  References:
    `jax.value_and_grad
    <https://docs.jax.dev/en/latest/_autosummary/jax.value_and_grad.html>`_,
    which is the rule without one.
  """

  init: Callable[[Any], Any]
  apply: Callable[..., tuple[tuple[Array, Any], Any, Mapping[str, Any], Any]]
  check: Callable[[Any], None] | None = None
