"""ANDMask and SANDMask: the domains' gradients where they agree."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import generalization
from kdjax.methods._method import Method
from kdjax.methods._row import Search
from kdjax.methods._updates import gradient_update
from kdjax.methods.generalization._domain_rules import Loss, by_domain
from kdjax.methods.generalization._row_kinds import row


def _masked(mask: Callable[..., Any], default: float) -> Callable[..., Method]:
  """The mean gradient of the domains' losses, under a mask of agreement."""

  def make(*, threshold: ArrayLike = default) -> Method:
    def gradients(
      loss: Loss,
      params: Any,
      batch: Any,
      key: Array,
      state: Any,
      *,
      axis_name: str | None = None,
    ) -> tuple[Any, Any]:
      del key
      seen, found = by_domain(loss, params, batch, axis_name)
      return seen, mask(found, threshold=state["threshold"])

    return Method(
      update=gradient_update(
        gradients, hyperparameters={"threshold": threshold}
      )
    )

  return make


ROWS = {
  "andmask": row(
    "ANDMask",
    "the gradient moves only parameters on whose sign the domains agree",
    _masked(generalization.andmask, 1.0),
    tuned="threshold",
    search=Search(1.0, 0.5, 1.0, linear=True),
  ),
  "sandmask": row(
    "SANDMask",
    "as ANDMask, with a smooth mask",
    _masked(generalization.sandmask, 0.5),
    tuned="threshold",
    search=Search(0.5, 0.0, 1.0, linear=True),
  ),
}
