"""The methods of generalization, as their authors weigh them.

Defaults and ranges are DomainBed's where it has the method, else those of its
paper.
"""

from typing import Any

from kdjax import generalization
from kdjax.methods._row import Row, Search, todo, lift
from kdjax.methods.generalization._crossgrad import (
  CROSSGRAD_PASSES,
  crossgrad,
  crossgrad_batch,
)
from kdjax.methods.generalization._dael import dael_dg
from kdjax.methods.generalization._ddaig import (
  DDAIG_PASSES,
  ddaig,
  ddaig_batch,
)
from kdjax.methods.generalization._difex import (
  DIFEX_PASSES,
  difex,
  difex_batch,
)
from kdjax.methods.generalization._fishr import fishr
from kdjax.methods.generalization._group_dro import group_dro
from kdjax.methods.generalization._irm import irm
from kdjax.methods.generalization._mixup import (
  domainmix_batch,
  mixed,
  mixup_batch,
)
from kdjax.methods.generalization._rsc import rsc
from kdjax.methods.generalization._sagnet import sagnet
from kdjax.methods.generalization._vrex import vrex


def _row(title: str, summary: str, method: Any = None, **needs: Any) -> Row:
  """A row of generalization whose method has no cross-entropy of its own."""
  options: dict[str, Any] = {"source": "DomainBed"} | todo(needs)
  return Row(title, summary, method, area="generalization", **options)


_AROUND_ONE = {"low": 0.1, "high": 10.0}
_LONG = {"low": 0.1, "high": 1e5}
_ANNEAL = Search(0.1, 2e-4, 2.0)

ROWS: dict[str, Row] = {
  "erm": _row(
    "ERM", "the mean cross-entropy of all domains, the yardstick", tuned=""
  ),
  "irm": _row(
    "IRM",
    "no classifier of another scale is better in any domain",
    irm,
    weight=100.0,
    search=Search(100.0, **_LONG),
    anneal=_ANNEAL,
    training="restart_at",
  ),
  "vrex": _row(
    "V-REx",
    "the domains' losses are equal",
    vrex,
    weight=10.0,
    search=Search(10.0, **_LONG),
    anneal=_ANNEAL,
    training="restart_at",
  ),
  "group_dro": _row(
    "GroupDRO",
    "the domains of the largest losses weigh most",
    group_dro,
    cross_entropy=0.0,
    tuned="step_size",
    search=Search(0.01, 0.001, 0.1),
  ),
  "fishr": _row(
    "Fishr",
    "the classifier's gradients vary equally in all domains",
    fishr,
    weight=1000.0,
    search=Search(1000.0, 10.0, 1e4),
    anneal=Search(0.3, 0.0, 1.0, linear=True),
    training="restart_at",
  ),
  "sd": _row(
    "SD",
    "logits are small (spectral decoupling)",
    lift(generalization.sd_penalty, ("student_logits",)),
    weight=0.1,
    search=Search(0.1, 1e-5, 0.1),
  ),
  "rsc": _row(
    "RSC",
    "the features that the classifier needs most are muted",
    rsc,
    cross_entropy=0.0,
    tuned="drop",
    search=Search(1 / 3, 0.0, 0.5, linear=True),
  ),
  "dg_coral": _row(
    "CORAL",
    "means and covariances of the domains' embeddings are equal",
    lift(generalization.coral, ("student_embeddings",)),
    search=Search(1.0, **_AROUND_ONE),
  ),
  "dg_mmd": _row(
    "MMD",
    "the distributions of the domains' embeddings are equal",
    lift(generalization.mmd, ("student_embeddings",)),
    search=Search(1.0, **_AROUND_ONE),
  ),
  "mixup": _row(
    "Mixup",
    "whole domains are mixed in pairs",
    mixed,
    cross_entropy=0.0,
    prepare=mixup_batch,
    tuned="alpha",
    search=Search(0.2, 0.1, 10.0),
  ),
  "domainmix": _row(
    "DomainMix",
    "images are mixed with images of other domains",
    mixed,
    cross_entropy=0.0,
    prepare=domainmix_batch,
    tuned="alpha",
    search=Search(1.0, **_AROUND_ONE),
    source="Dassl",
  ),
  "mixstyle": _row(
    "MixStyle",
    "the first maps take means and deviations of other domains' maps",
    training="mixed_styles",
    tuned="alpha",
    search=Search(0.1, 0.1, 1.0),
    source="Dassl",
  ),
  "efdmix": _row(
    "EFDMix",
    "the first maps take whole distributions of other domains' maps",
    training="mixed_styles",
    tuned="alpha",
    search=Search(0.1, 0.1, 1.0),
    source="Dassl",
  ),
  "sagnet": _row(
    "SagNet",
    "content tells the class, style does not",
    sagnet,
    weight=0.1,
    cross_entropy=0.0,
    search=Search(0.1, 0.01, 10.0),
  ),
  "crossgrad": _row(
    "CrossGrad",
    "two networks learn from images that the other's loss has moved",
    crossgrad,
    cross_entropy=0.0,
    networks=("judge",),
    passes=CROSSGRAD_PASSES,
    prepare=crossgrad_batch,
    tuned="epsilon",
    search=Search(1.0, **_AROUND_ONE),
    source="Dassl",
  ),
  "ddaig": _row(
    "DDAIG",
    "a generator hides the domain and keeps the class",
    ddaig,
    cross_entropy=0.0,
    networks=("judge", "generator"),
    passes=DDAIG_PASSES,
    prepare=ddaig_batch,
    tuned="perturbation",
    search=Search(0.3, 0.1, 1.0),
    source="Dassl",
  ),
  "dg_dael": _row(
    "DAEL-DG",
    "the other domains' experts agree with the own one, on a strong view",
    dael_dg,
    cross_entropy=0.0,
    views=("strong",),
    search=Search(1.0, **_AROUND_ONE),
    source="Dassl",
  ),
  "difex": _row(
    "DIFEX",
    "half of the features follow a network of phases, half are aligned",
    difex,
    weight=0.1,
    networks=("phases",),
    passes=DIFEX_PASSES,
    prepare=difex_batch,
    search=Search(0.1, 0.001, 1.0),
    source="DeepDG, whose teacher of phases is trained first",
  ),
}
