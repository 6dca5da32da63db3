"""Generalized knowledge distillation (GKD)."""

from jax.typing import ArrayLike

from kdjax import distillation
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods.language._own_text import with_own_text
from kdjax.methods.language._row_kinds import row


def _gkd(
  *,
  beta: ArrayLike = 0.5,
  temperature: ArrayLike = 1.0,
  share: ArrayLike = 0.5,
) -> Method:
  """By `kdjax.distillation.generalized_jsd_loss`, of two kinds of text.

  In a `share` of the steps, lambda, the text is that of the view `on_policy`,
  which the student has written, with the batch's `"on_policy_mask"`; in the
  others it is the batch's own. `share=0` is the loss on the batch alone.
  """
  loss = distillation.generalized_jsd_loss
  objective = stateless(loss, beta=beta, temperature=temperature)
  return with_own_text("gkd", objective, share)


ROWS = {
  "gkd": row(
    "GKD, Agarwal 2024",
    "generalized JSD on the student's own text in half of the steps",
    _gkd,
    source="TRL, GKDConfig",
  ),
}
