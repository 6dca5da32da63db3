"""Methods that compare features and learn no part of their own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import select_stages
from kdjax.methods.distillation._row_kinds import MDISTILLER, REPDISTILLER, row


def _at(
  *,
  power: ArrayLike = 2.0,
  form: str = "mean",
) -> Objective:
  """By `kdjax.distillation.at_loss`, summed over the stages without the stem.

  Of maps of unequal size the larger is averaged to the smaller, over
  overlapping bins where one does not divide the other.
  """
  loss = _summed(functools.partial(distillation.at_loss, form=form))
  return stateless(loss, select_stages, power=power)


def _nst() -> Objective:
  """By `kdjax.distillation.nst_loss`, summed over the stages without the stem.

  Of maps of unequal size the larger is averaged to the smaller.
  """
  return stateless(_summed(distillation.nst_loss), select_stages)


def _kdsvd(*, k: int = 1) -> Objective:
  """By `kdjax.distillation.kdsvd_loss`, of the stages without the stem.

  The widths of student and teacher must be equal.
  """
  loss = functools.partial(distillation.kdsvd_loss, k=k)
  return stateless(loss, select_stages)


def _summed(loss: Callable[..., Array]) -> Callable[..., Any]:
  """The sum over stages of a loss of two maps of one size."""

  def total(
    student: Sequence[Array], teacher: Sequence[Array], **options: ArrayLike
  ) -> Any:
    pairs = zip(student, teacher, strict=True)
    return sum(loss(*ops.pool_to_smaller(*pair), **options) for pair in pairs)

  return total


ROWS = {
  "at": row(
    "features",
    "Attention transfer, Zagoruyko 2017",
    "matches where the maps of each stage are active",
    _at,
    weight=1000.0,
    source=REPDISTILLER,
  ),
  "nst": row(
    "features",
    "Neuron selectivity transfer, Huang 2017",
    "matches the distribution of the channels of each stage by MMD",
    _nst,
    weight=50.0,
    source=REPDISTILLER,
  ),
  "kdsvd": row(
    "features",
    "KD by singular value decomposition, Lee 2018",
    "matches singular vectors of consecutive stages",
    _kdsvd,
    source=MDISTILLER,
  ),
}
