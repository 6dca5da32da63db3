"""DistiLLM."""

from jax.typing import ArrayLike

from kdjax import distillation
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods.language._own_text import with_own_text
from kdjax.methods.language._row_kinds import row


def _distillm(
  *,
  skew: ArrayLike = 0.1,
  temperature: ArrayLike = 1.0,
  share: ArrayLike = 0.5,
) -> Method:
  """By `kdjax.distillation.skew_reverse_kl_loss`, of two kinds of text.

  In a `share` of the steps the text is that of the view `on_policy`, which the
  student has written and which the caller may use several times, with the
  batch's `"on_policy_mask"`; in the others it is the batch's own. `share=0` is
  the loss on the batch alone.

  Departs from the authors' code: there the share grows from 0 where the
  validation loss rises, here it is constant.
  """
  loss = distillation.skew_reverse_kl_loss
  objective = stateless(loss, skew=skew, temperature=temperature)
  return with_own_text("distillm", objective, share)


ROWS = {
  "distillm": row(
    "DistiLLM, Ko 2024",
    "skew reverse KL, on text of the student that is used again",
    _distillm,
    source="distillm, scripts/gpt2",
  ),
}
