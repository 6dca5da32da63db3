"""The self-training methods that are a loss and its weights."""

import functools
from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike

from kdjax import adaptation
from kdjax.methods._method import Method
from kdjax.methods._objective import Objective
from kdjax.methods._row import Row, lift
from kdjax.methods.adaptation import _comparisons
from kdjax.methods.adaptation._row_kinds import (
  STRONG,
  TARGET,
  TAUGHT,
  row,
  strong,
)
from kdjax.methods.optimizers._parameter_ema import with_average


def _averaged(factory: Callable[..., Objective]) -> Callable[..., Method]:
  """A method whose optimizer keeps the student's average, its teacher."""

  def make(*, decay: ArrayLike = 0.999, **options: Any) -> Method:
    return Method(factory(**options), optimizer=with_average(decay))

  return make


_ensembling = _comparisons.summed(
  (
    "consistency",
    3.0,
    functools.partial(adaptation.consistency_loss, threshold=0.8),
    TAUGHT,
    {},
  ),
  ("balance", 0.01, adaptation.self_ensembling_balance_loss, TARGET, {}),
)

ROWS: dict[str, Row] = {
  "pseudo_label": row(
    "pseudo-labels",
    "the own sure predictions are labels",
    lift(adaptation.pseudo_label_loss, TARGET),
  ),
  "fixmatch": strong(
    "FixMatch",
    "sure predictions are labels for a strong view",
    adaptation.fixmatch_loss,
  ),
  "uda": strong(
    "UDA",
    "sharpened predictions are taught to a strong view",
    adaptation.uda_loss,
  ),
  "mean_teacher": row(
    "mean teacher",
    "the student's average teaches a strong view",
    _averaged(lift(adaptation.consistency_loss, TAUGHT)),
    views=("strong",),
    networks=("average",),
  ),
  "pi_model": strong(
    "pi-model",
    "the student agrees with itself on a strong view",
    adaptation.consistency_loss,
  ),
  "self_ensembling": row(
    "self-ensembling",
    "as mean teacher, of sure examples, with all classes",
    _averaged(_ensembling),
    views=("strong",),
    networks=("average",),
  ),
  "confusion_consistency": row(
    "MCC with consistency",
    "no two classes are confused on the target, nor on a strong view",
    _comparisons.summed(
      ("confusion", 1.0, adaptation.mcc_loss, TARGET, {}),
      (
        "consistency",
        1.0,
        adaptation.confusion_consistency_loss,
        STRONG,
        {},
      ),
    ),
    views=("strong",),
    source="paper",
  ),
}
