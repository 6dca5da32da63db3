"""The methods of adaptation, as their authors weigh them."""

import functools

from kdjax import adaptation, reweighting, transforms
from kdjax.methods._row import Row, lift
from kdjax.methods.adaptation import _comparisons
from kdjax.methods.adaptation._fda import fda_batch
from kdjax.methods.adaptation._row_kinds import (
  EMBEDDINGS,
  TARGET,
  on_source,
  row,
  weights,
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
    lift(adaptation.mmd, EMBEDDINGS),
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
  "m3sda": row(
    "M3SDA",
    "the first moments of all domains are equal",
    lift(_comparisons.moments),
    weight=0.5,
    source="Dassl",
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
  "fda": row(
    "FDA",
    "source images take the target's low frequencies",
    None,
    prepare=fda_batch,
    tuned="",
    source="paper",
  ),
  "adabn": row(
    "AdaBN",
    "batch statistics of the target, no weight moves",
    lift(_comparisons.no_loss),
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    tuned="",
    source="paper",
  ),
  # Importance weights, before training.
  "kmm": weights(
    "KMM",
    "the weighted source has the target's kernel mean embedding",
    reweighting.kmm_weights,
  ),
  "kliep": weights(
    "KLIEP",
    "density ratios of the least divergence",
    reweighting.kliep_weights,
  ),
  "ulsif": weights(
    "uLSIF", "density ratios by least squares", reweighting.ulsif_weights
  ),
  "rulsif": weights(
    "RuLSIF",
    "density ratios to a mixture, by least squares",
    functools.partial(reweighting.ulsif_weights, alpha=0.1),
  ),
  "discriminator_ratio": weights(
    "discriminator ratio",
    "density ratios of a logistic regression of the domains",
    reweighting.discriminator_weights,
  ),
  "bbse": weights(
    "BBSE",
    "weights of classes, by a classifier's confusions",
    reweighting.bbse_weights,
  ),
  "pada_weights": weights(
    "PADA's weights",
    "weights of classes, by a classifier's predictions on the target",
    reweighting.pada_class_weights,
  ),
  "target_shift": weights(
    "MMD target shift",
    "weights of classes, by kernel mean embeddings",
    reweighting.target_shift_weights,
  ),
  # Closed-form maps, before training.
  "coral_map": on_source(
    "CORAL map",
    "the source takes the target's covariance",
    transform=transforms.coral_transform,
  ),
  "linear_ot": on_source(
    "linear OT map",
    "the source takes the target's mean and covariance, by least transport",
    transform=transforms.linear_ot,
  ),
  "subspace_alignment": on_source(
    "subspace alignment",
    "the source's principal axes are turned to the target's",
    transform=transforms.subspace_alignment,
  ),
  "gfk": on_source(
    "GFK",
    "the geodesic flow between the principal axes of both domains",
    transform=transforms.gfk,
  ),
  "tca": on_source(
    "TCA",
    "components in which both domains have the same mean",
    transform=transforms.tca,
  ),
  "jda_map": on_source(
    "JDA map",
    "components in which both domains have the same mean, class by class",
    transform=transforms.joint_distribution_adaptation,
  ),
}
