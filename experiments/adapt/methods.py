"""The methods that `experiments.adapt` compares, each with what it needs."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from experiments.adapt import objectives as terms
from experiments.adapt.data import Data
from experiments.adapt.data import transform
from experiments.adapt.data import transform_jointly
from experiments.adapt.data import weigh as weigh_source
from kdjax import adaptation
from kdjax import data as kdata
from kdjax import objectives
from kdjax import reweighting
from kdjax import training
from kdjax import transforms
from kdjax.objectives import Objective
from kdjax.objectives import combine
from kdjax.objectives import on_target
from kdjax.objectives import select_embeddings
from kdjax.objectives import stateless
from kdjax.ops import masked_mean


class Method(NamedTuple):
  """A way to adapt.

  Attributes:
    name: as it is printed.
    kind: what it is one of.
    objective: what is minimised, the task included.
    domain: which images the student sees.
    weighted: whether the weight is to be chosen.
    views: other views of the target's images.
    teacher: "mean", the student's average, or "source", the student of
      source-only.
    pretrained: whether it starts as source-only ended.
    change: of the data, before anything is trained.
    remake: of each batch: `(forward, variables, batch, key) -> batch`.
    renew: of the state, before each round: `(forward, state, images) -> state`.
  """

  name: str
  kind: str
  objective: Callable[[terms.Setting], Objective]
  domain: Literal["both", "source", "target"] = "both"
  weighted: bool = True
  views: tuple[str, ...] = ()
  teacher: Literal["", "mean", "source"] = ""
  pretrained: bool = False
  change: Callable[[Data], Data] | None = None
  remake: Callable[..., Any] | None = None
  renew: Callable[..., Any] | None = None


def strong_view(key: jax.Array, batch: Any) -> Any:
  """Images moved by up to a pixel, and a square of each blackened."""
  images = kdata.random_crop(key, batch["image"], padding=1)
  size = images.shape[1] // 4
  return kdata.cutout(jax.random.fold_in(key, 1), images, size=size)


VIEWS = {"strong": strong_view, "strong_2": strong_view}


def discrepancy(
  name: str,
  loss: Callable[..., Any],
  select: Callable[..., Any] = select_embeddings,
  weight: float = 1.0,
) -> Method:
  """A method whose loss compares the outputs on both domains."""
  part = weight, lambda _: stateless(loss, select)
  return Method(name, "discrepancy", terms.beside_task(part))


def from_target(
  name: str,
  loss: Callable[..., Any],
  *,
  kind: str = "predictions",
  select: Callable[..., Any] = lambda target, *_: (target.logits,),
  weight: float = 1.0,
  **needs: Any,
) -> Method:
  """A method whose loss is of the target's outputs alone."""
  part = weight, lambda _: on_target(stateless(loss, select))
  return Method(name, kind, terms.beside_task(part), **needs)


def strong_and_weak(target: Any, *_: Any) -> Any:
  """The logits of the strong view and of the image itself."""
  return target.views["strong"].logits, target.logits


def strong_and_taught(target: Any, teacher: Any, _: Any) -> Any:
  """The logits of the strong view and the teacher's of the image."""
  return target.views["strong"].logits, teacher.logits


def confusion(setting: terms.Setting) -> Objective:
  """MCC with its published weight."""
  del setting
  return on_target(
    stateless(adaptation.mcc_loss, lambda target, *_: (target.logits,))
  )


def adversary(
  name: str, build: Callable[..., Objective], *, high: float = 1.0, **options
) -> Method:
  """A player behind a gradient reversal, whose scale is the weight."""

  def objective(setting: terms.Setting) -> Objective:
    player = build(
      hidden=setting.hidden,
      scale=high * setting.weight,
      schedule=training.reversal_schedule(setting.steps),
      **options,
    )
    return combine(
      {"task": (1.0, terms.task(setting)), "transfer": (1.0, player)}
    )

  return Method(name, "adversarial", objective)


def instance_weights(name: str, weigh: Callable[..., Any]) -> Method:
  """A method that weighs source images, by their pixels."""
  return Method(
    name,
    "instance weights",
    terms.weighted_task,
    domain="source",
    weighted=False,
    change=functools.partial(weigh_source, weigh=weigh),
  )


def closed_form(name: str, fit: Callable[..., Any]) -> Method:
  """A method that maps the pixels of both domains before training."""
  return Method(
    name,
    "closed-form maps",
    terms.task,
    domain="source",
    weighted=False,
    change=functools.partial(transform, fit=fit),
  )


METHODS = {
  "source_only": Method(
    "source-only", "bounds", terms.task, domain="source", weighted=False
  ),
  "mmd": discrepancy("MMD", adaptation.mmd),
  "jmmd": discrepancy("JMMD", terms.joint_mmd, terms.layers),
  "lmmd": discrepancy(
    "LMMD",
    adaptation.lmmd,
    lambda s, t, batch: (
      s.embedding,
      t.embedding,
      batch["label"],
      jax.nn.softmax(t.logits),
    ),
    0.5,
  ),
  "coral": discrepancy("CORAL", adaptation.coral_loss),
  "cmd": discrepancy("CMD", adaptation.cmd_loss),
  "m3sda": discrepancy("M3SDA", terms.m3sda, weight=0.5),
  "afn": discrepancy(
    "AFN",
    terms.feature_norms(
      lambda x, mask: masked_mean(adaptation.afn_loss(x), mask)
    ),
    weight=0.05,
  ),
  "hafn": discrepancy(
    "HAFN",
    terms.feature_norms(lambda x, mask: adaptation.hafn_loss(x, where=mask)),
    weight=0.05,
  ),
  "rsd": discrepancy("RSD", adaptation.rsd_loss, weight=0.001),
  "sinkhorn": discrepancy("Sinkhorn", adaptation.sinkhorn_divergence),
  "sliced_wasserstein": Method(
    "sliced Wasserstein", "discrepancy", terms.beside_task((1.0, terms.sliced))
  ),
  "deepjdot": discrepancy(
    "DeepJDOT",
    adaptation.deepjdot_loss,
    lambda s, t, batch: (s.embedding, t.embedding, batch["label"], t.logits),
  ),
  "dann": adversary("DANN", objectives.dann),
  "cdan": adversary("CDAN", objectives.cdan),
  "cdan_entropy": adversary("CDAN+E", objectives.cdan, entropy=True),
  "cdan_random": adversary("CDAN, randomised", objectives.cdan, mapped=256),
  "bsp": Method(
    "DANN+BSP",
    "adversarial",
    terms.beside_task(
      (1.0, terms.dann),
      (1e-4, lambda _: stateless(adaptation.bsp_loss, select_embeddings)),
      fixed=1,
    ),
  ),
  "jda": Method("JDA", "adversarial", terms.joint_adaptation),
  "adda": Method(
    "ADDA",
    "adversarial",
    lambda setting: objectives.adda(hidden=setting.hidden),
    weighted=False,
    teacher="source",
    pretrained=True,
  ),
  "mcd": adversary("MCD", objectives.mcd),
  "mdd": adversary("MDD", objectives.mdd, high=0.1),
  "entropy": from_target("entropy", adaptation.entropy_loss, weight=0.1),
  "bnm": from_target("BNM", adaptation.bnm_loss),
  "mcc": from_target("MCC", adaptation.mcc_loss),
  "information": from_target(
    "information maximisation", adaptation.information_maximization_loss
  ),
  "shot": Method(
    "SHOT",
    "predictions",
    terms.shot,
    domain="target",
    pretrained=True,
    renew=terms.renew_labels,
  ),
  "mme": Method(
    "MME",
    "predictions",
    lambda setting: objectives.mme(weight=0.1 * setting.weight),
  ),
  "cdac": Method(
    "CDAC",
    "self-training",
    lambda setting: objectives.cdac(weight=setting.weight),
    views=("strong", "strong_2"),
  ),
  "pseudo_label": from_target(
    "pseudo-labels", adaptation.pseudo_label_loss, kind="self-training"
  ),
  "fixmatch": from_target(
    "FixMatch",
    adaptation.fixmatch_loss,
    kind="self-training",
    select=strong_and_weak,
    views=("strong",),
  ),
  "uda": from_target(
    "UDA",
    adaptation.uda_loss,
    kind="self-training",
    select=strong_and_weak,
    views=("strong",),
  ),
  "flexmatch": Method(
    "FlexMatch",
    "self-training",
    terms.beside_task((1.0, terms.flexmatch)),
    views=("strong",),
  ),
  "mean_teacher": from_target(
    "mean teacher",
    adaptation.consistency_loss,
    kind="self-training",
    select=strong_and_taught,
    views=("strong",),
    teacher="mean",
  ),
  "pi_model": from_target(
    "pi-model",
    adaptation.consistency_loss,
    kind="self-training",
    select=strong_and_weak,
    views=("strong",),
  ),
  "self_ensembling": Method(
    "self-ensembling",
    "self-training",
    terms.beside_task(
      (
        3.0,
        lambda _: on_target(
          stateless(
            functools.partial(adaptation.consistency_loss, threshold=0.8),
            strong_and_taught,
          )
        ),
      ),
      (
        0.01,
        lambda _: on_target(
          stateless(
            adaptation.self_ensembling_balance_loss,
            lambda target, *_: (target.logits,),
          )
        ),
      ),
    ),
    views=("strong",),
    teacher="mean",
  ),
  "dst": adversary("DST", objectives.dst, high=0.1)._replace(
    kind="self-training", views=("strong",)
  ),
  "confusion_consistency": Method(
    "MCC with consistency",
    "self-training",
    terms.beside_task(
      (1.0, confusion),
      (
        1.0,
        lambda _: on_target(
          stateless(adaptation.confusion_consistency_loss, strong_and_weak)
        ),
      ),
    ),
    views=("strong",),
  ),
  "mixmatch": Method(
    "MixMatch", "self-training", terms.mixmatch, remake=terms.mix
  ),
  "fda": Method(
    "FDA", "inputs", terms.task, weighted=False, remake=terms.fourier
  ),
  "adabn": Method(
    "AdaBN",
    "inputs",
    terms.nothing,
    domain="target",
    weighted=False,
    pretrained=True,
  ),
  "kmm": instance_weights("KMM", reweighting.kmm_weights),
  "kliep": instance_weights("KLIEP", reweighting.kliep_weights),
  "ulsif": instance_weights("uLSIF", reweighting.ulsif_weights),
  "rulsif": instance_weights(
    "RuLSIF", functools.partial(reweighting.ulsif_weights, alpha=0.1)
  ),
  "discriminator_ratio": instance_weights(
    "discriminator ratio", reweighting.discriminator_weights
  ),
  "coral_map": closed_form("CORAL map", transforms.coral_transform),
  "linear_ot": closed_form("linear OT map", transforms.linear_ot),
  "subspace_alignment": closed_form(
    "subspace alignment",
    functools.partial(transforms.subspace_alignment, num_components=30),
  ),
  "gfk": closed_form("GFK", transforms.gfk),
  "tca": closed_form(
    "TCA", functools.partial(transforms.tca, num_components=30)
  ),
  "jda_map": Method(
    "JDA map",
    "closed-form maps",
    terms.task,
    domain="source",
    weighted=False,
    change=transform_jointly,
  ),
  "target_only": Method(
    "target-only", "bounds", terms.task, domain="target", weighted=False
  ),
}


BOUNDS = ("source_only", "target_only")


CHOICES = tuple(name for name in METHODS if name not in BOUNDS)
