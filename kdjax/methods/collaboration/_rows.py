"""The methods of collaborative and progressive learning, as published."""

import functools
from typing import Any

from kdjax import collaboration
from kdjax.methods._row import Row, lift, todo
from kdjax.methods.collaboration._chains import (
  amalgamation,
  annealing,
  dgkd,
  refilled,
)
from kdjax.methods.collaboration._peers import (
  codistillation,
  independent,
  kdcl,
  mutual,
  okddip,
  one,
)
from kdjax.methods.collaboration._progressive import rco, sandwich, stagewise

_NO_CODE = "kdjax: the authors published no code"


def _peers(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A method of peers, which includes their labels."""
  options: dict[str, Any] = {"networks": ("peer_0", "peer_1")} | todo(needs)
  return Row(
    title,
    summary,
    method,
    area="collaboration",
    cross_entropy=0.0,
    **options,
  )


def _taught(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A method of one student and one teacher or several."""
  options: dict[str, Any] = {"networks": ("teacher",)} | todo(needs)
  return Row(title, summary, method, area="collaboration", **options)


ROWS: dict[str, Row] = {
  "independent": _peers(
    "independent peers",
    "each peer on labels alone",
    independent,
    tuned="",
  ),
  "mutual": _peers(
    "DML",
    "each peer learns from the answers of all others",
    mutual,
    source="authors' code, which sums over the other peers",
  ),
  "mutual_mean": _peers(
    "DML, paper",
    "each peer learns from the mean divergence to the others",
    functools.partial(mutual, reduction="mean", epsilon=0.0),
    source="paper",
  ),
  "codistillation": _peers(
    "codistillation",
    "each peer learns from stale answers of the others, after a burn-in",
    codistillation,
    networks=("peer_0", "peer_1", "stale_0", "stale_1"),
    source="paper",
  ),
  "one": _peers(
    "ONE",
    "a gated ensemble of the peers teaches each of them",
    one,
    source="authors, with a ramp of 80 epochs",
  ),
  "okddip": _peers(
    "OKDDip",
    "auxiliary peers attend to each other, and teach a leader, the last peer",
    okddip,
    networks=("peer_0", "peer_1", "peer_2"),
    source="authors, with a ramp of 80 epochs",
  ),
  "kdcl_naive": _peers(
    "KDCL, naive",
    "the best peer of each example teaches",
    functools.partial(kdcl, method="naive"),
    source=_NO_CODE,
  ),
  "kdcl_linear": _peers(
    "KDCL, linear",
    "the best combination of the peers' logits teaches, for each example",
    functools.partial(kdcl, method="linear"),
    source=_NO_CODE,
  ),
  "kdcl_min_logit": _peers(
    "KDCL, minimum logit",
    "the least certain logit of each class teaches",
    functools.partial(kdcl, method="min_logit"),
    source=_NO_CODE,
  ),
  "dgkd": _taught(
    "DGKD",
    "a teacher and all its assistants teach at once",
    dgkd,
    networks=("teacher_0", "teacher_1"),
    cross_entropy=0.0,
    source="authors, whose divergence is also divided by the classes",
  ),
  "annealing": _taught(
    "annealing KD",
    "logits of a teacher that is flat at first, then labels alone",
    annealing,
    cross_entropy=0.0,
    tuned="",
    source="authors, CIFAR; the share of the steps is kdjax's",
  ),
  "rco": _taught(
    "RCO",
    "checkpoints along the teacher's path teach one after the other",
    rco,
    networks=("teacher_0", "teacher_1"),
    weight=0.9,
    cross_entropy=0.1,
    source="KD's: the authors published no code",
  ),
  "stagewise": _taught(
    "stage-by-stage KD",
    "stages learn the teacher's maps one by one, then the classifier labels",
    stagewise,
    cross_entropy=0.0,
    tuned="",
    training="stagewise_training",
    source="paper; equal shares of the steps are kdjax's",
  ),
  "sandwich": _taught(
    "progressive shrinking",
    "the network teaches narrower networks that share its weights",
    sandwich,
    networks=(),
    views=("narrow_0", "narrow_1", "narrow_2"),
    source="authors of universally slimmable networks",
  ),
  "refilled_relation": _taught(
    "ReFilled, stage 1",
    "a teacher of other classes compares examples",
    lift(collaboration.refilled_relation_loss),
    weight=1000.0,
    cross_entropy=0.0,
    source="authors, tuples",
  ),
  "refilled": _taught(
    "ReFilled, stage 2",
    "a teacher of other classes classifies by its class centers",
    refilled,
    weight=100.0,
    source="authors",
  ),
  "amalgamation": _taught(
    "amalgamation",
    "each of several teachers classifies among its own classes",
    amalgamation,
    networks=("teacher_0", "teacher_1"),
    cross_entropy=0.0,
    source="paper, with the divergence for its cross-entropy",
  ),
}
