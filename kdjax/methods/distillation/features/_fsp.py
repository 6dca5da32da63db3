"""Flow of solution procedure (FSP)."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import select_stages
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row


def _fsp() -> Objective:
  """By `kdjax.distillation.fsp_loss`, of consecutive stages from the stem on.

  The losses are summed; the widths of student and teacher must be equal.
  """

  def loss(student: Sequence[Array], teacher: Sequence[Array]) -> Any:
    if len(student) < 2:
      raise ValueError(
        "fsp: student and teacher share one feature; expected two or more."
      )
    pairs = zip(
      itertools.pairwise(student), itertools.pairwise(teacher), strict=True
    )
    return sum(distillation.fsp_loss(*pair) for pair in pairs)

  select = functools.partial(select_stages, stem=True)
  return stateless(loss, select)


ROWS = {
  "fsp": row(
    "features",
    "Flow of solution procedure, Yim 2017",
    "matches the products of consecutive stages, in a stage before training",
    None,
    initialization=_fsp,
    initialization_epochs=30,
    source=REPDISTILLER,
  ),
}
