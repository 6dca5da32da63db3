"""Methods that compare maps of stages: AT, NST, FSP and KD-SVD."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods._stages import select_stages


def at(
  *,
  power: ArrayLike = 2.0,
  form: str = "mean",
) -> Objective:
  """Attention transfer (AT) over all stages.

  Each stage's `kdjax.distillation.at_loss`, summed over the stages
  without the stem. Of maps of unequal size the larger is averaged to the
  smaller, over overlapping bins where one does not divide the other.

  Args:
    power: the exponent of the channel statistics.
    form: "mean" as in the authors' code, or "norm" as in the paper.

  Returns:
    An objective; its published weight is 1000.

  References:
    Zagoruyko and Komodakis, `Paying more attention to attention
    <https://arxiv.org/abs/1612.03928>`_, 2017, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
  """
  loss = _summed(functools.partial(distillation.at_loss, form=form))
  return stateless(loss, select_stages, power=power)


def nst() -> Objective:
  """Neuron selectivity transfer (NST) over all stages.

  Each stage's `kdjax.distillation.nst_loss`, summed over the stages
  without the stem. Of maps of unequal size the larger is averaged to the
  smaller.

  Returns:
    An objective; its published weight is 50.

  References:
    Huang and Wang, `Like what you like: knowledge distill via neuron
    selectivity transfer <https://arxiv.org/abs/1707.01219>`_, 2017, as in
    `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_.
  """
  return stateless(_summed(distillation.nst_loss), select_stages)


def fsp() -> Objective:
  """Flow of solution procedure (FSP) over all consecutive stages.

  The `kdjax.distillation.fsp_loss` of each stage and the next, from the
  stem on, summed. It prepares the student in a stage of its own, before the
  training on labels; the widths of student and teacher must be equal.

  Returns:
    An objective; its published weight is 1, for 30 epochs.

  References:
    Yim et al., `A gift from knowledge distillation
    <https://doi.org/10.1109/CVPR.2017.754>`_, 2017, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
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


def kdsvd(*, k: int = 1) -> Objective:
  """Distillation by singular value decomposition (KD-SVD) over all stages.

  The `kdjax.distillation.kdsvd_loss` of the stages without the stem. The
  widths of student and teacher must be equal.

  Args:
    k: how many singular vectors.

  Returns:
    An objective; its published weight is 1.

  References:
    Lee, Kim and Song, `Self-supervised knowledge distillation using singular
    value decomposition <https://arxiv.org/abs/1807.06819>`_, 2018, as in
    `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_.
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
