"""The methods of adaptation, as their authors weigh them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax.typing import ArrayLike

from kdjax import adaptation
from kdjax import reweighting
from kdjax import transforms
from kdjax.objectives._objective import Objective
from kdjax.objectives._pass import Pass
from kdjax.objectives._preset import Preset
from kdjax.objectives._preset import Search
from kdjax.objectives._preset import lift
from kdjax.objectives.adaptation import _comparisons
from kdjax.objectives.adaptation._fda import fda_batch
from kdjax.objectives.adaptation._views import domain_views
from kdjax.objectives.adaptation.adversarial._adda import adda
from kdjax.objectives.adaptation.adversarial._advent import advent
from kdjax.objectives.adaptation.adversarial._cdan import cdan
from kdjax.objectives.adaptation.adversarial._dann import bsp
from kdjax.objectives.adaptation.adversarial._dann import dann
from kdjax.objectives.adaptation.adversarial._dann import over_training
from kdjax.objectives.adaptation.adversarial._iwan import iwan
from kdjax.objectives.adaptation.adversarial._jda import jda
from kdjax.objectives.adaptation.adversarial._mcd import mcd
from kdjax.objectives.adaptation.adversarial._mdd import mdd
from kdjax.objectives.adaptation.adversarial._osbp import osbp
from kdjax.objectives.adaptation.adversarial._pada import pada
from kdjax.objectives.adaptation.self_training._cdac import cdac
from kdjax.objectives.adaptation.self_training._dael import dael
from kdjax.objectives.adaptation.self_training._debiasmatch import debiasmatch
from kdjax.objectives.adaptation.self_training._dst import dst
from kdjax.objectives.adaptation.self_training._flexmatch import flexmatch
from kdjax.objectives.adaptation.self_training._gradual_self_training import (
  gradual_self_training,
)
from kdjax.objectives.adaptation.self_training._mixmatch import mixmatch
from kdjax.objectives.adaptation.self_training._mixmatch import mixmatch_batch
from kdjax.objectives.adaptation.self_training._mme import mme
from kdjax.objectives.adaptation.self_training._self_tuning import self_tuning
from kdjax.objectives.adaptation.self_training._shot import shot

_BOTH = ("source", "target")
_EMBEDDINGS = ("source_embeddings", "target_embeddings")
_TARGET = ("target_logits",)
_STRONG = ("target_strong_logits", "target_logits")
_TAUGHT = ("target_strong_logits", "target_teacher_logits")


def _row(title: str, summary: str, method: Any, **needs: Any) -> Preset:
  """A method that sees both domains, beside the source's cross-entropy."""
  options: dict[str, Any] = {"domains": _BOTH, "source": "TLlib"} | needs
  return Preset(title, summary, method, area="adaptation", **options)


def _on_source(title: str, summary: str, **needs: Any) -> Preset:
  """A method that changes the source's examples, and trains on them alone."""
  options: dict[str, Any] = {
    "domains": ("source",),
    "tuned": "",
    "source": "paper",
  } | needs
  return _row(title, summary, options.pop("method", None), **options)


def _weights(
  title: str, summary: str, reweight: Callable[..., Any], **needs: Any
) -> Preset:
  """A method that weights the source's examples."""
  return _on_source(
    title,
    summary,
    method=lift(_comparisons.weighted_cross_entropy),
    cross_entropy=0.0,
    reweight=reweight,
    **needs,
  )


def _adversary(
  title: str,
  summary: str,
  factory: Callable[..., Objective],
  *,
  scale: float = 1.0,
  **needs: Any,
) -> Preset:
  """A player behind a gradient reversal, whose scale rises to the published."""
  options: dict[str, Any] = {"tuned": "scale", "search": Search(scale)} | needs
  return _row(title, summary, factory, **options)


def _rising(
  factory: Callable[..., Objective], **defaults: Any
) -> Callable[..., Objective]:
  """A factory whose adversary rises over the training."""

  def build(
    steps: ArrayLike, hidden: Sequence[int] | None = None, **options: Any
  ) -> Objective:
    if hidden is not None:
      options["hidden"] = hidden
    return factory(schedule=over_training(steps), **(defaults | options))

  return build


def _rising_weighted(factory: Callable[..., Objective]) -> Any:
  """As `_rising`, of a factory that has a weight of its own."""
  rising = _rising(factory)

  def build(
    steps: ArrayLike,
    *,
    weight: ArrayLike,
    hidden: Sequence[int] | None = None,
    **options: Any,
  ) -> Objective:
    return rising(steps, hidden, weight=weight, **options)

  return build


def _strong(
  title: str,
  summary: str,
  loss: Callable[..., Any],
  names: Sequence[str] = _STRONG,
  **needs: Any,
) -> Preset:
  """A loss of the target's strong view and of what is told of the example."""
  options: dict[str, Any] = {"views": ("strong",)} | needs
  return _row(title, summary, lift(loss, names), **options)


def _seen_twice(name: str, network: str, *domains: str) -> dict[str, Pass]:
  """Passes of another view of the domains, which `prepare` adds."""
  role = name if network == "student" else network
  train = network == "student"
  return {
    f"{domain}_{role}": Pass(network, f"{domain}.{name}", train=train)
    for domain in domains
  }


_other_views = functools.partial(domain_views, name="other")
_many_sources = functools.partial(domain_views, batch_axes={"source": 2})
_MANY_SOURCES = {
  "source": Pass("student", "source.image", train=True, batch_axes=2),
  "target": Pass("student", "target.image", train=True),
  "source_strong": Pass("student", "source.strong", train=True, batch_axes=2),
  "target_strong": Pass("student", "target.strong", train=True),
}

PRESETS: dict[str, Preset] = {
  "source_only": _on_source(
    "source-only", "the source's labels alone, the lower bound", source=""
  ),
  "target_only": _on_source(
    "target-only",
    "the target's labels alone, the upper bound",
    domains=("target",),
    source="",
  ),
  # Discrepancies of embeddings.
  "mmd": _row(
    "MMD",
    "the kernel mean embeddings of both domains are equal (DAN)",
    lift(adaptation.mmd, _EMBEDDINGS),
  ),
  "jmmd": _row(
    "JMMD",
    "as MMD, of embeddings and predicted classes together (JAN)",
    lift(_comparisons.joint_mmd),
  ),
  "lmmd": _row(
    "LMMD",
    "as MMD, class by class (DSAN)",
    lift(
      adaptation.lmmd,
      (*_EMBEDDINGS, "source_labels", "target_probabilities"),
    ),
    weight=0.5,
    source="DeepDA",
  ),
  "coral": _row(
    "CORAL",
    "the covariances of both domains are equal (Deep CORAL)",
    lift(adaptation.coral_loss, _EMBEDDINGS),
  ),
  "cmd": _row(
    "CMD",
    "the central moments of both domains are equal",
    lift(adaptation.cmd_loss, _EMBEDDINGS),
    source="paper",
  ),
  "m3sda": _row(
    "M3SDA",
    "the first moments of all domains are equal",
    lift(_comparisons.moments),
    weight=0.5,
    source="Dassl",
  ),
  "afn": _row(
    "AFN",
    "features grow step by step",
    lift(_comparisons.adaptive_norms),
    weight=0.05,
  ),
  "hafn": _row(
    "HAFN",
    "the mean length of features is that of a given radius",
    lift(_comparisons.hard_norms),
    weight=0.05,
    source="paper",
  ),
  "rsd": _row(
    "RSD",
    "the principal directions of both domains are equal",
    lift(adaptation.rsd_loss, _EMBEDDINGS),
    weight=0.001,
    source="paper",
  ),
  "sinkhorn": _row(
    "Sinkhorn",
    "little transport from the one domain to the other",
    lift(adaptation.sinkhorn_divergence, _EMBEDDINGS),
    source="paper",
  ),
  "sliced_wasserstein": _row(
    "sliced Wasserstein",
    "little transport along random directions",
    lift(_comparisons.sliced),
    source="paper",
  ),
  "deepjdot": _row(
    "DeepJDOT",
    "little transport of features and labels together",
    lift(
      adaptation.deepjdot_loss,
      (*_EMBEDDINGS, "source_labels", "target_logits"),
    ),
    source="paper",
  ),
  # Adversaries.
  "dann": _adversary(
    "DANN", "a discriminator cannot tell the domains apart", _rising(dann)
  ),
  "cdan": _adversary(
    "CDAN",
    "as DANN, of embeddings times predicted classes",
    _rising(cdan),
  ),
  "cdan_entropy": _adversary(
    "CDAN+E",
    "as CDAN, sure examples weigh more",
    _rising(cdan, entropy=True),
  ),
  "cdan_random": _adversary(
    "CDAN, randomized",
    "as CDAN, by random maps of a given width",
    _rising(cdan, mapped=1024),
  ),
  "bsp": _row(
    "DANN+BSP",
    "as DANN, the largest singular value is penalized",
    _rising_weighted(bsp),
    weight=1e-4,
  ),
  "jda": _row(
    "JDA",
    "the task and the divergence of the domains, as one objective",
    _rising_weighted(jda),
    cross_entropy=0.0,
    source="the formula L_JDA",
  ),
  "adda": _row(
    "ADDA",
    "the target's features pass for the source's",
    adda,
    cross_entropy=0.0,
    networks=("source",),
    start="source",
    tuned="",
    source="paper",
  ),
  "mcd": _adversary(
    "MCD",
    "two classifiers disagree on the target, the features prevent it",
    _rising(mcd),
    cross_entropy=0.0,
  ),
  "mdd": _adversary(
    "MDD",
    "a second classifier turns on the first, the features prevent it",
    _rising(mdd),
    scale=0.1,
  ),
  "osbp": _row(
    "OSBP",
    "a last class takes in what the source does not know (open sets)",
    osbp,
    tuned="unknown_share",
    search=Search(0.5),
  ),
  "iwan": _row(
    "IWAN",
    "as DANN, source examples unlike the target weigh less (partial sets)",
    _rising_weighted(iwan),
    weight=3.0,
  ),
  "pada": _row(
    "PADA",
    "as DANN, source classes that the target lacks weigh less (partial sets)",
    _rising_weighted(pada),
    cross_entropy=0.0,
  ),
  "advent": _row(
    "ADVENT",
    "entropy maps of both domains look alike (segmentation)",
    advent,
    weight=0.001,
    source="authors",
  ),
  # Predictions on the target.
  "entropy": _row(
    "entropy",
    "sure predictions on the target",
    lift(adaptation.entropy_loss, _TARGET),
    weight=0.1,
    source="paper",
  ),
  "minent": _row(
    "MinEnt",
    "sure predictions for each pixel of the target (segmentation)",
    lift(adaptation.minent_loss, _TARGET),
    weight=0.001,
    source="authors",
  ),
  "bnm": _row(
    "BNM",
    "predictions on the target that are sure and diverse",
    lift(adaptation.bnm_loss, _TARGET),
    source="authors",
  ),
  "mcc": _row(
    "MCC",
    "no two classes are confused on the target",
    lift(adaptation.mcc_loss, _TARGET),
  ),
  "information": _row(
    "information maximization",
    "sure predictions on the target, and all classes",
    lift(adaptation.information_maximization_loss, _TARGET),
    source="SHOT",
  ),
  "shot": _row(
    "SHOT",
    "no source: sure predictions, and pseudo-labels by centroids",
    shot,
    weight=0.3,
    cross_entropy=0.0,
    domains=("target",),
    start="source",
    source="authors",
  ),
  "mme": _row(
    "MME",
    "prototypes raise the target's entropy, the features lower it",
    mme,
    weight=0.1,
    cross_entropy=0.0,
    source="authors",
  ),
  # Self-training.
  "cdac": _row(
    "CDAC",
    "as MME, by pairs of examples that are alike, with pseudo-labels",
    cdac,
    cross_entropy=0.0,
    views=("strong", "strong_2"),
    source="Dassl",
  ),
  "pseudo_label": _row(
    "pseudo-labels",
    "the own sure predictions are labels",
    lift(adaptation.pseudo_label_loss, _TARGET),
  ),
  "fixmatch": _strong(
    "FixMatch",
    "sure predictions are labels for a strong view",
    adaptation.fixmatch_loss,
  ),
  "uda": _strong(
    "UDA",
    "sharpened predictions are taught to a strong view",
    adaptation.uda_loss,
  ),
  "flexmatch": _row(
    "FlexMatch",
    "as FixMatch, with a threshold for each class",
    flexmatch,
    views=("strong",),
  ),
  "debiasmatch": _row(
    "DebiasMatch",
    "as FixMatch, less of the classes that are predicted too often",
    debiasmatch,
    passes=_seen_twice("strong", "student", *_BOTH),
    prepare=domain_views,
  ),
  "self_tuning": _row(
    "self-tuning",
    "a pseudo-label is a group of keys to be near to",
    self_tuning,
    passes=_seen_twice("other", "average", *_BOTH),
    prepare=_other_views,
    networks=("average",),
    training="parameter_ema",
  ),
  "mean_teacher": _strong(
    "mean teacher",
    "the student's average teaches a strong view",
    adaptation.consistency_loss,
    _TAUGHT,
    networks=("average",),
    training="parameter_ema",
  ),
  "pi_model": _strong(
    "pi-model",
    "the student agrees with itself on a strong view",
    adaptation.consistency_loss,
  ),
  "self_ensembling": _row(
    "self-ensembling",
    "as mean teacher, of sure examples, with all classes",
    _comparisons.summed(
      (
        "consistency",
        3.0,
        functools.partial(adaptation.consistency_loss, threshold=0.8),
        _TAUGHT,
        {},
      ),
      ("balance", 0.01, adaptation.self_ensembling_balance_loss, _TARGET, {}),
    ),
    views=("strong",),
    networks=("average",),
    training="parameter_ema",
  ),
  "dst": _adversary(
    "DST",
    "a head of its own learns from pseudo-labels, beside the worst one",
    _rising(dst),
    scale=0.1,
    views=("strong",),
  ),
  "confusion_consistency": _row(
    "MCC with consistency",
    "no two classes are confused on the target, nor on a strong view",
    _comparisons.summed(
      ("confusion", 1.0, adaptation.mcc_loss, _TARGET, {}),
      (
        "consistency",
        1.0,
        adaptation.confusion_consistency_loss,
        _STRONG,
        {},
      ),
    ),
    views=("strong",),
    source="paper",
  ),
  "mixmatch": _row(
    "MixMatch",
    "guessed labels, and mixtures of all images",
    mixmatch,
    weight=75.0,
    cross_entropy=0.0,
    prepare=mixmatch_batch,
    source="authors",
  ),
  "gradual_self_training": _row(
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
  "goat": _row(
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
  "dael": _row(
    "DAEL",
    "an expert for each source, the surest teaches all on the target",
    dael,
    weight=0.5,
    cross_entropy=0.0,
    passes=_MANY_SOURCES,
    prepare=_many_sources,
    source="Dassl",
  ),
  # Inputs and statistics.
  "fda": _row(
    "FDA",
    "source images take the target's low frequencies",
    None,
    prepare=fda_batch,
    tuned="",
    source="paper",
  ),
  "adabn": _row(
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
  "kmm": _weights(
    "KMM",
    "the weighted source has the target's kernel mean embedding",
    reweighting.kmm_weights,
  ),
  "kliep": _weights(
    "KLIEP",
    "density ratios of the least divergence",
    reweighting.kliep_weights,
  ),
  "ulsif": _weights(
    "uLSIF", "density ratios by least squares", reweighting.ulsif_weights
  ),
  "rulsif": _weights(
    "RuLSIF",
    "density ratios to a mixture, by least squares",
    functools.partial(reweighting.ulsif_weights, alpha=0.1),
  ),
  "discriminator_ratio": _weights(
    "discriminator ratio",
    "density ratios of a logistic regression of the domains",
    reweighting.discriminator_weights,
  ),
  "bbse": _weights(
    "BBSE",
    "weights of classes, by a classifier's confusions",
    reweighting.bbse_weights,
  ),
  "pada_weights": _weights(
    "PADA's weights",
    "weights of classes, by a classifier's predictions on the target",
    reweighting.pada_class_weights,
  ),
  "target_shift": _weights(
    "MMD target shift",
    "weights of classes, by kernel mean embeddings",
    reweighting.target_shift_weights,
  ),
  # Closed-form maps, before training.
  "coral_map": _on_source(
    "CORAL map",
    "the source takes the target's covariance",
    transform=transforms.coral_transform,
  ),
  "linear_ot": _on_source(
    "linear OT map",
    "the source takes the target's mean and covariance, by least transport",
    transform=transforms.linear_ot,
  ),
  "subspace_alignment": _on_source(
    "subspace alignment",
    "the source's principal axes are turned to the target's",
    transform=transforms.subspace_alignment,
  ),
  "gfk": _on_source(
    "GFK",
    "the geodesic flow between the principal axes of both domains",
    transform=transforms.gfk,
  ),
  "tca": _on_source(
    "TCA",
    "components in which both domains have the same mean",
    transform=transforms.tca,
  ),
  "jda_map": _on_source(
    "JDA map",
    "components in which both domains have the same mean, class by class",
    transform=transforms.joint_distribution_adaptation,
  ),
}
