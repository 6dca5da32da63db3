"""The self-training methods of adaptation, as their authors weigh them."""

import functools

from kdjax import adaptation, transforms
from kdjax.methods._method import Pass
from kdjax.methods._row import Row, Search, lift
from kdjax.methods.adaptation import _comparisons
from kdjax.methods.adaptation._row_kinds import (
  BOTH,
  STRONG,
  TARGET,
  TAUGHT,
  adversary,
  rising,
  row,
  seen_twice,
  strong,
)
from kdjax.methods.adaptation._views import domain_views
from kdjax.methods.adaptation.self_training._cdac import cdac
from kdjax.methods.adaptation.self_training._dael import dael
from kdjax.methods.adaptation.self_training._debiasmatch import debiasmatch
from kdjax.methods.adaptation.self_training._dst import dst
from kdjax.methods.adaptation.self_training._flexmatch import flexmatch
from kdjax.methods.adaptation.self_training._gradual_self_training import (
  gradual_self_training,
)
from kdjax.methods.adaptation.self_training._mixmatch import (
  mixmatch,
  mixmatch_batch,
)
from kdjax.methods.adaptation.self_training._mme import mme
from kdjax.methods.adaptation.self_training._self_tuning import self_tuning
from kdjax.methods.adaptation.self_training._shot import shot

_other_views = functools.partial(domain_views, name="other")
_many_sources = functools.partial(domain_views, batch_axes={"source": 2})
_MANY_SOURCES = {
  "source": Pass("student", "source.image", train=True, batch_axes=2),
  "target": Pass("student", "target.image", train=True),
  "source_strong": Pass("student", "source.strong", train=True, batch_axes=2),
  "target_strong": Pass("student", "target.strong", train=True),
}

ROWS: dict[str, Row] = {
  "shot": row(
    "SHOT",
    "no source: sure predictions, and pseudo-labels by centroids",
    shot,
    weight=0.3,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    source="authors",
  ),
  "mme": row(
    "MME",
    "prototypes raise the target's entropy, the features lower it",
    mme,
    weight=0.1,
    cross_entropy=0.0,
    source="authors",
  ),
  "cdac": row(
    "CDAC",
    "as MME, by pairs of examples that are alike, with pseudo-labels",
    cdac,
    cross_entropy=0.0,
    views=("strong", "strong_2"),
    source="Dassl",
  ),
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
  "flexmatch": row(
    "FlexMatch",
    "as FixMatch, with a threshold for each class",
    flexmatch,
    views=("strong",),
  ),
  "debiasmatch": row(
    "DebiasMatch",
    "as FixMatch, less of the classes that are predicted too often",
    debiasmatch,
    passes=seen_twice("strong", "student", *BOTH),
    prepare=domain_views,
  ),
  "self_tuning": row(
    "self-tuning",
    "a pseudo-label is a group of keys to be near to",
    self_tuning,
    passes=seen_twice("other", "average", *BOTH),
    prepare=_other_views,
    networks=("average",),
    training="parameter_ema",
  ),
  "mean_teacher": strong(
    "mean teacher",
    "the student's average teaches a strong view",
    adaptation.consistency_loss,
    TAUGHT,
    networks=("average",),
    training="parameter_ema",
  ),
  "pi_model": strong(
    "pi-model",
    "the student agrees with itself on a strong view",
    adaptation.consistency_loss,
  ),
  "self_ensembling": row(
    "self-ensembling",
    "as mean teacher, of sure examples, with all classes",
    _comparisons.summed(
      (
        "consistency",
        3.0,
        functools.partial(adaptation.consistency_loss, threshold=0.8),
        TAUGHT,
        {},
      ),
      ("balance", 0.01, adaptation.self_ensembling_balance_loss, TARGET, {}),
    ),
    views=("strong",),
    networks=("average",),
    training="parameter_ema",
  ),
  "dst": adversary(
    "DST",
    "a head of its own learns from pseudo-labels, beside the worst one",
    rising(dst),
    scale=0.1,
    views=("strong",),
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
  "mixmatch": row(
    "MixMatch",
    "guessed labels, and mixtures of all images",
    mixmatch,
    weight=75.0,
    cross_entropy=0.0,
    prepare=mixmatch_batch,
    source="authors",
  ),
  "gradual_self_training": row(
    "gradual self-training",
    "from domain to domain, by the labels that are confident",
    gradual_self_training,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    tuned="drop",
    search=Search(0.1),
    source="authors",
  ),
  "goat": row(
    "GOAT",
    "gradual self-training on domains between the embeddings of two",
    gradual_self_training,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    transform=transforms.interpolate_domains,
    tuned="drop",
    search=Search(0.1),
    source="authors",
  ),
  "dael": row(
    "DAEL",
    "an expert for each source, the surest teaches all on the target",
    dael,
    weight=0.5,
    cross_entropy=0.0,
    passes=_MANY_SOURCES,
    prepare=_many_sources,
    source="Dassl",
  ),
}
