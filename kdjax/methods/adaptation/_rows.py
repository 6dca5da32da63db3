"""The methods of adaptation, as their authors weigh them."""

import optax

from kdjax import adaptation
from kdjax.methods._method import Method
from kdjax.methods._objective import stateless
from kdjax.methods._row import Row, lift
from kdjax.methods.adaptation import _comparisons
from kdjax.methods.adaptation._row_kinds import (
  EMBEDDINGS,
  TARGET,
  on_source,
  row,
)


def _adabn() -> Method:
  """The batch statistics of the target; the optimizer moves nothing."""
  return Method(
    stateless(_comparisons.no_loss),
    optimizer=lambda optimizer: optax.set_to_zero(),
  )


ROWS: dict[str, Row] = {
  "source_only": on_source(
    "source-only", "the source's labels alone, the lower bound", source=""
  ),
  "target_only": on_source(
    "target-only",
    "the target's labels alone, the upper bound",
    domains=("target",),
    source="",
  ),
  # Discrepancies of embeddings.
  "mmd": row(
    "MMD",
    "the kernel mean embeddings of both domains are equal (DAN)",
    lift(adaptation.mmd, EMBEDDINGS, estimator="linear"),
  ),
  "jmmd": row(
    "JMMD",
    "as MMD, of embeddings and predicted classes together (JAN)",
    lift(_comparisons.joint_mmd),
  ),
  "lmmd": row(
    "LMMD",
    "as MMD, class by class (DSAN)",
    lift(
      adaptation.lmmd,
      (*EMBEDDINGS, "source_labels", "target_probabilities"),
    ),
    weight=0.5,
    source="DeepDA",
  ),
  "coral": row(
    "CORAL",
    "the covariances of both domains are equal (Deep CORAL)",
    lift(adaptation.coral_loss, EMBEDDINGS),
  ),
  "cmd": row(
    "CMD",
    "the central moments of both domains are equal",
    lift(adaptation.cmd_loss, EMBEDDINGS),
    source="paper",
  ),
  "afn": row(
    "AFN",
    "features grow step by step",
    lift(_comparisons.adaptive_norms),
    weight=0.05,
  ),
  "hafn": row(
    "HAFN",
    "the mean length of features is that of a given radius",
    lift(_comparisons.hard_norms),
    weight=0.05,
    source="paper",
  ),
  "rsd": row(
    "RSD",
    "the principal directions of both domains are equal",
    lift(adaptation.rsd_loss, EMBEDDINGS),
    weight=0.001,
    source="paper",
  ),
  "sinkhorn": row(
    "Sinkhorn",
    "little transport from the one domain to the other",
    lift(adaptation.sinkhorn_divergence, EMBEDDINGS),
    source="paper",
  ),
  "sliced_wasserstein": row(
    "sliced Wasserstein",
    "little transport along random directions",
    lift(_comparisons.sliced),
    source="paper",
  ),
  "deepjdot": row(
    "DeepJDOT",
    "little transport of features and labels together",
    lift(
      adaptation.deepjdot_loss,
      (*EMBEDDINGS, "source_labels", "target_logits"),
    ),
    source="paper",
  ),
  # Predictions on the target.
  "entropy": row(
    "entropy",
    "sure predictions on the target",
    lift(adaptation.entropy_loss, TARGET),
    weight=0.1,
    source="paper",
  ),
  "minent": row(
    "MinEnt",
    "sure predictions for each pixel of the target (segmentation)",
    lift(adaptation.minent_loss, TARGET),
    weight=0.001,
    source="authors",
  ),
  "bnm": row(
    "BNM",
    "predictions on the target that are sure and diverse",
    lift(adaptation.bnm_loss, TARGET),
    source="authors",
  ),
  "mcc": row(
    "MCC",
    "no two classes are confused on the target",
    lift(adaptation.mcc_loss, TARGET),
  ),
  "information": row(
    "information maximization",
    "sure predictions on the target, and all classes",
    lift(adaptation.information_maximization_loss, TARGET),
    source="SHOT",
  ),
  # Inputs and statistics.
  "adabn": row(
    "AdaBN",
    "batch statistics of the target, no weight moves",
    _adabn,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    tuned="",
    source="paper",
  ),
}
