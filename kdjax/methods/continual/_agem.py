"""Averaged gradient episodic memory (A-GEM)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._method import Method
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._updates import gradient_update
from kdjax.methods.continual._row_kinds import replay


def _agem() -> Method:
  """The gradient loses the part that works against replayed examples.

  The batch has a part `"replay"`, a draw from the first examples of each
  earlier task. Its gradient stands in mammoth for that of all parameters
  together, as here.
  """
  current = stateless(ops.cross_entropy, ("logits", "labels"))
  replayed = stateless(ops.cross_entropy, ("replay_logits", "replay_labels"))

  def gradients(
    loss: Any,
    params: Any,
    batch: Any,
    key: Array,
    state: Any,
    *,
    axis_name: str | None = None,
  ) -> tuple[Any, Any]:
    del key, state

    def of_part(part: str) -> Any:
      return jax.value_and_grad(
        lambda params: loss(params, batch, part=part), has_aux=True
      )(params)

    seen, found = of_part("current")
    _, reference = of_part("replayed")
    found, reference = ops.mean_over_devices((found, reference), axis_name)
    product, square = (
      sum(jax.tree.leaves(jax.tree.map(jnp.vdot, tree, reference)))
      for tree in (found, reference)
    )
    share = jnp.minimum(product, 0) / jnp.where(square == 0, 1.0, square)
    return seen, jax.tree.map(lambda g, r: g - share * r, found, reference)

  parts = {"current": current.apply, "replayed": replayed.apply}
  objective = Objective(current.init, current.apply, parts=parts)
  return Method(objective, update=gradient_update(gradients))


ROWS = {
  "agem": replay(
    "A-GEM",
    "the gradient loses its part against the gradient of replayed examples",
    _agem,
    cross_entropy=0.0,
    tuned="",
    source="mammoth",
  ),
}
