"""Steps on the student's own text, in a share of all steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import ops
from kdjax.methods._method import Method, Needs
from kdjax.methods._objective import Objective

TEXT = "on_policy"


def with_own_text(name: str, objective: Objective, share: ArrayLike) -> Method:
  """A method whose step sees the student's own text, drawn by `share`.

  The view `on_policy` gives the text, of the shape of the learner's `on` (of
  several entries, of the first), and the batch's `"on_policy_mask"` marks its
  positions in the loss. The text is written between the steps
  (`kdjax.nets.generate`), so that the view reads it from the batch. All
  examples of a step are of one kind.

  Args:
    name: of the method, for errors.
    objective: that reads no labels.
    share: the probability of a step on own text; 0 needs no such text.

  Returns:
    A `Method`.
  """
  ops.check_range(f"{name}: share", share, 0.0, 1.0)
  if isinstance(share, int | float) and share == 0:
    return Method(objective)

  def prepare(
    key: Array, batch: Any, run: Callable[..., Any], *, on: Any
  ) -> Any:
    del run
    entry = on if isinstance(on, str) else on[0]
    known = f"{name}: batch"
    text = ops.get_entry(known, batch, TEXT)
    where = ops.get_entry(known, batch, f"{TEXT}_mask")
    drawn = jax.random.bernoulli(key, share)
    return {
      **batch,
      entry: jnp.where(drawn, text, batch[entry]),
      "mask": jnp.where(drawn, where, ops.get_entry(known, batch, "mask")),
    }

  return Method(objective, prepare=prepare, needs=Needs(views=(TEXT,)))
