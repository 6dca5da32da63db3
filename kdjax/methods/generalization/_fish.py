"""Fish: inner steps domain by domain, then part of the way there."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._method import Method, Update
from kdjax.methods._row import Search
from kdjax.methods.generalization._domain_rules import (
  Loss,
  of_domain,
  optax_update,
)
from kdjax.methods.generalization._row_kinds import row


def _fish(*, meta_step_size: ArrayLike = 0.5) -> Method:
  """By `kdjax.generalization.fish`; the learner's optimizer takes the steps.

  Its state goes on from step to step. Metrics and batch statistics are those of
  one more forward pass, of all domains.
  """

  def init(params: Any, optimizer: Any) -> Any:
    size = jnp.asarray(meta_step_size, float)
    return {"optimizer": optimizer.init(params), "meta_step_size": size}

  def apply(
    loss: Loss,
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    optimizer: Any,
  ) -> tuple[Any, Any, Any]:
    del key
    result = generalization.fish(
      of_domain(loss),
      params,
      batch,
      inner_update=optax_update(optimizer),
      inner_state=state["optimizer"],
      meta_step_size=state["meta_step_size"],
    )
    updates = jax.tree.map(lambda new, old: new - old, result.params, params)
    return loss(params, batch), updates, state | {"optimizer": result.state}

  return Method(update=Update(init, apply))


ROWS = {
  "fish": row(
    "Fish",
    "inner steps go from domain to domain, the student a part of their way",
    _fish,
    tuned="meta_step_size",
    search=Search(0.5, 0.05, 0.5),
  ),
}
