"""Every method as its authors weigh it, in one table."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import binary_kl_loss
from kdjax.distillation import dist_loss
from kdjax.distillation import dkd_loss
from kdjax.distillation import lskd_loss
from kdjax.distillation import nkd_loss
from kdjax.distillation import pkt_loss
from kdjax.distillation import rkd_loss
from kdjax.distillation import rld_loss
from kdjax.distillation import soft_target_loss
from kdjax.distillation import sp_loss
from kdjax.distillation import standardize_logits
from kdjax.distillation import ttm_loss
from kdjax.distillation import virtual_teacher_loss
from kdjax.distillation import wsld_loss
from kdjax.distillation import wttm_loss
from kdjax.nets import Outputs
from kdjax.objectives._contrastive import crd
from kdjax.objectives._curriculum import ctkd
from kdjax.objectives._factors import factor_transfer
from kdjax.objectives._factors import factor_transfer_pretraining
from kdjax.objectives._generators import mgd
from kdjax.objectives._generators import vitkd
from kdjax.objectives._heads import cat
from kdjax.objectives._heads import simkd
from kdjax.objectives._heads import srrl
from kdjax.objectives._layer_attention import afd
from kdjax.objectives._layer_attention import semckd
from kdjax.objectives._logits import uskd
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import Schedule
from kdjax.objectives._objective import combine
from kdjax.objectives._objective import stateless
from kdjax.objectives._one_for_all import ofa
from kdjax.objectives._pairs import of_pair
from kdjax.objectives._projectors import ickd
from kdjax.objectives._projectors import ktaad
from kdjax.objectives._projectors import srd
from kdjax.objectives._projectors import vkd
from kdjax.objectives._regions import sdd
from kdjax.objectives._regressors import ab
from kdjax.objectives._regressors import fitnet
from kdjax.objectives._regressors import ofd
from kdjax.objectives._relations import cc
from kdjax.objectives._relations import crd_in_batch
from kdjax.objectives._relations import irg
from kdjax.objectives._relations import itrd
from kdjax.objectives._review import review_kd
from kdjax.objectives._select import Selector
from kdjax.objectives._select import select_embeddings
from kdjax.objectives._select import select_logits
from kdjax.objectives._select import select_logits_and_labels
from kdjax.objectives._select import select_supervised
from kdjax.objectives._stage_maps import at
from kdjax.objectives._stage_maps import fsp
from kdjax.objectives._stage_maps import kdsvd
from kdjax.objectives._stage_maps import nst
from kdjax.objectives._stages import select_last_stage
from kdjax.objectives._transport import wkd_feature
from kdjax.objectives._transport import wkd_logit
from kdjax.objectives._variances import l2
from kdjax.objectives._variances import pad_l2
from kdjax.objectives._variances import vid
from kdjax.objectives._views import crld
from kdjax.objectives._views import cskd
from kdjax.objectives._views import mlld
from kdjax.objectives._views import sskd
from kdjax.ops import cross_entropy
from kdjax.ops import get_entry


class Preset(NamedTuple):
  """Preset: a method, and what its authors add to it with which weights.

  The loss is `cross_entropy * H(y, q) + kd * T^2 KL + weight * method`.

  Attributes:
    method: makes the method's objective, from `axis_name`, `num_examples` if
      it keeps one row an example, and hyper-parameters; None if there is
      nothing but cross-entropy and KD.
    weight: of the method.
    cross_entropy: weight of the cross-entropy with the labels.
    kd: weight of the soft-target loss beside the method.
    temperature: of that soft-target loss.
    warmup_epochs: over how many epochs the method's weight grows linearly.
    first_epoch: the number of the first one: 1 starts at 1 / warmup_epochs,
      0 at nothing.
    views: the other views of each image that the method sees, by name.
    initialization: the objective of a stage before, or None. Parts of the same
      name in both stages keep their variables.
    initialization_epochs: how long that stage takes.
    source: where the weights come from.

  References:
    Tian et al., `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_,
    whose command line has these three weights.
  """

  method: Callable[..., Objective] | None
  weight: float = 1.0
  cross_entropy: float = 1.0
  kd: float = 0.0
  temperature: float = 4.0
  warmup_epochs: int = 0
  first_epoch: int = 1
  views: tuple[str, ...] = ()
  initialization: Callable[..., Objective] | None = None
  initialization_epochs: int = 0
  source: str = ""


def preset(
  name: str,
  *,
  pair: tuple[str, str] | None = None,
  initialization: bool = False,
  steps_per_epoch: int | None = None,
  num_examples: int | None = None,
  labels: Any = None,
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Objective of a method with its published weights.

  Args:
    name: a name of :data:`PRESETS`.
    pair: the names of the teacher and of the student. The authors of DKD,
      CAT-KD, logit standardization and SDD set weights for each pair of the
      CIFAR-100 tables; other pairs and methods have the row's.
    initialization: whether it is for the stage before, of those methods that
      have one (AB, FSP, FT); :func:`kdjax.training.hand_over` goes on
      from there. AB and FSP are nothing else: afterwards labels alone teach.
    steps_per_epoch: in which warm-ups and curricula count.
    num_examples: how many training examples there are, for memory banks.
    labels: `[num_examples]`, the labels of all of them, by which CRD draws its
      negatives from other classes, as published; without, from other examples.
    axis_name: the mapped axis that holds the rest of the batch.
    **hyperparameters: of the method, instead of the published ones.

  Returns:
    An objective with the metrics `"loss"`, `"ce/loss"`, `"kd/loss"` and
    `"<name>/loss"`, as far as they have a weight.

  Raises:
    ValueError: if there is no preset of that name, it has no stage before or
      no such hyper-parameter, or needs the steps of an epoch or the number of
      examples and does not get them.

  Examples:
    >>> objective = preset("kd")
    >>> params, state = objective.init(jax.random.key(0), None, None)
    >>> state["weights"]
    {'ce': Array(0.1, dtype=float32), 'kd': Array(0.9, dtype=float32)}

  References:
    The sources of the weights are in the table.
  """
  if name not in PRESETS:
    raise ValueError(
      f"preset: name is {name!r}; expected one of {', '.join(sorted(PRESETS))}."
    )
  weight, published = of_pair(name, pair, PRESETS[name].weight)
  row = PRESETS[name]._replace(weight=weight)
  hyperparameters = published | hyperparameters
  if initialization:
    if row.initialization is None:
      raise ValueError(f"preset: {name} has no stage before; expected False.")
    return row.initialization(axis_name=axis_name, **hyperparameters)
  parts: dict[str, tuple[ArrayLike | Schedule, Objective]] = {}
  if row.cross_entropy:
    hard = stateless(cross_entropy, select_supervised, axis_name=axis_name)
    parts["ce"] = row.cross_entropy, hard
  if row.kd:
    temperature = row.temperature
    if row.method is None:
      temperature = hyperparameters.pop("temperature", temperature)
    soft = stateless(
      soft_target_loss, axis_name=axis_name, temperature=temperature
    )
    parts["kd"] = row.kd, soft
  if row.method is None and hyperparameters:
    raise ValueError(
      f"preset: {name} has no {', '.join(hyperparameters)}; expected "
      f"{'temperature' if row.kd else 'no hyper-parameter'}."
    )
  if row.method:
    method = _build(
      row.method,
      name,
      num_examples=num_examples,
      steps_per_epoch=steps_per_epoch,
      labels=labels,
      axis_name=axis_name,
      **hyperparameters,
    )
    parts[name] = _warmup(name, row, steps_per_epoch), method
  return combine(parts)


def _build(
  factory: Callable[..., Objective],
  name: str,
  *,
  num_examples: int | None = None,
  steps_per_epoch: int | None = None,
  labels: Any = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Objective:
  """Calls a method's factory with what it has parameters for."""
  parameters = inspect.signature(factory).parameters
  if "labels" in parameters:
    hyperparameters["labels"] = labels
  for option, value, need in (
    ("num_examples", num_examples, "keeps a row for each example"),
    ("steps_per_epoch", steps_per_epoch, "counts epochs"),
  ):
    if option not in parameters:
      continue
    if value is None:
      raise ValueError(f"preset: {name} {need}; expected {option}.")
    hyperparameters[option] = value
  return factory(axis_name=axis_name, **hyperparameters)


def lift(
  loss: Callable[..., Any],
  select: Selector = select_logits,
  **defaults: ArrayLike,
) -> Callable[..., Objective]:
  """A factory of a pure loss's objective, with published defaults."""

  def factory(
    *, axis_name: str | None = None, **hyperparameters: ArrayLike
  ) -> Objective:
    values = defaults | hyperparameters
    return stateless(loss, select, axis_name=axis_name, **values)

  return factory


def _select_standardized_and_labels(
  student: Outputs, teacher: Outputs, batch: Any
) -> tuple[Array, Array, Array]:
  """Selects both sides' logits as LSKD standardizes them, and the labels."""
  return (
    standardize_logits(student.logits),
    standardize_logits(teacher.logits),
    get_entry("dkd+lskd: batch", batch, "label"),
  )


def _warmup(
  name: str, row: Preset, steps_per_epoch: int | None
) -> ArrayLike | Schedule:
  if not row.warmup_epochs:
    return row.weight
  if steps_per_epoch is None:
    raise ValueError(
      f"preset: {name} warms up over {row.warmup_epochs} epochs; expected "
      "steps_per_epoch."
    )

  def schedule(step: Array) -> Array:
    epoch = step // steps_per_epoch + row.first_epoch
    return row.weight * jnp.minimum(epoch / row.warmup_epochs, 1.0)

  return schedule


_REPDISTILLER = "RepDistiller, scripts/run_cifar_distill.sh"
_MDISTILLER = "mdistiller, configs/cifar100"
_CLS_KD = "cls_KD, configs/distillers/cifar100"
_LSKD = "logit-standardization-KD, tools/train.py"

PRESETS: dict[str, Preset] = {
  "scratch": Preset(None, source="cross-entropy alone"),
  "kd": Preset(None, cross_entropy=0.1, kd=0.9, source=_REPDISTILLER),
  "dkd": Preset(
    lift(
      dkd_loss, select_logits_and_labels, temperature=4.0, alpha=1.0, beta=8.0
    ),
    warmup_epochs=20,
    source=_MDISTILLER,
  ),
  "nkd": Preset(
    lift(nkd_loss, select_logits_and_labels, temperature=3.0, gamma=3.5),
    source=_CLS_KD,
  ),
  "uskd": Preset(
    functools.partial(uskd, alpha=0.1, beta=0.1, mu=0.1), source=_CLS_KD
  ),
  "dist": Preset(
    lift(dist_loss, temperature=4.0, beta=1.0, gamma=1.0),
    2.0,
    source="DIST_KD and image_classification_sota, dist_t4",
  ),
  "lskd": Preset(
    lift(lskd_loss, temperature=2.0), 9.0, cross_entropy=0.1, source=_LSKD
  ),
  "dkd+lskd": Preset(
    lift(
      dkd_loss,
      _select_standardized_and_labels,
      temperature=2.0,
      alpha=9.0,
      beta=72.0,
    ),
    warmup_epochs=20,
    source=_LSKD,
  ),
  "ttm": Preset(
    lift(ttm_loss, gamma=0.1), 45.0, source="TTM, README.md, vgg13 to vgg8"
  ),
  "wttm": Preset(
    lift(wttm_loss, gamma=0.2),
    4.0,
    source="TTM, README.md, vgg13 to vgg8, where it accompanies CRD",
  ),
  "ofa": Preset(ofa, source="OFAKD, train.py and README.md"),
  "mlld": Preset(
    mlld,
    cross_entropy=0.1,
    views=("strong",),
    source="Multi-Level-Logit-Distillation, mdistiller/engine/cfg.py",
  ),
  "fitnet": Preset(fitnet, 100.0, source=_REPDISTILLER),
  "at": Preset(at, 1000.0, source=_REPDISTILLER),
  "nst": Preset(nst, 50.0, source=_REPDISTILLER),
  "fsp": Preset(
    None,
    initialization=fsp,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "ab": Preset(
    None,
    initialization=ab,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "ft": Preset(
    functools.partial(factor_transfer, form="attention_maps"),
    200.0,
    initialization=factor_transfer_pretraining,
    initialization_epochs=30,
    source=_REPDISTILLER,
  ),
  "kdsvd": Preset(kdsvd, source=_MDISTILLER),
  "ofd": Preset(ofd, 1e-3, source=_MDISTILLER),
  "review_kd": Preset(review_kd, 5.0, warmup_epochs=20, source=_MDISTILLER),
  "rkd": Preset(
    lift(rkd_loss, select_embeddings, distance_weight=25.0, angle_weight=50.0),
    source=_REPDISTILLER,
  ),
  "pkt": Preset(
    lift(pkt_loss, select_embeddings), 30000.0, source=_REPDISTILLER
  ),
  "cc": Preset(
    functools.partial(cc, form="adjacent"), 0.02, source=_REPDISTILLER
  ),
  "sp": Preset(lift(sp_loss, select_last_stage), 3000.0, source=_REPDISTILLER),
  "irg": Preset(irg, source="Knowledge-Distillation-Zoo, train_kd.py"),
  "itrd": Preset(itrd, source="ITRD, train_student.py"),
  "crd": Preset(crd, 0.8, source=_REPDISTILLER),
  "crd+kd": Preset(crd, 0.8, kd=1.0, source=_REPDISTILLER),
  "crd_in_batch": Preset(crd_in_batch, source="none published"),
  "rld": Preset(
    lift(rld_loss, select_logits_and_labels, temperature=4.0, beta=8.0),
    warmup_epochs=20,
    source="RLD, mdistiller/engine/cfg.py",
  ),
  "wsld": Preset(
    lift(wsld_loss, select_logits_and_labels, temperature=4.0),
    2.25,
    source="cls_KD, configs/distillers/cifar100",
  ),
  "crld": Preset(
    crld, views=("strong",), source="CRLD, mdistiller/engine/cfg.py"
  ),
  "binary_kl": Preset(lift(binary_kl_loss), source="vanillaKD, train-kd.py"),
  "sdd_kd": Preset(
    functools.partial(sdd, inner="kd", temperature=4.0),
    0.9,
    cross_entropy=0.1,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py",
  ),
  "sdd_dkd": Preset(
    functools.partial(sdd, inner="dkd", temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py, train_origin.py",
  ),
  "ctkd": Preset(
    ctkd, 0.9, cross_entropy=0.1, source="CTKD, scripts/run_cifar_distill.sh"
  ),
  "cskd": Preset(cskd, views=("partner",), source="CS-KD, README.md"),
  "tfkd": Preset(
    None,
    cross_entropy=0.1,
    kd=0.9,
    temperature=1.0,
    source="torchdistill, tfkd-resnet18_from_resnet18; the teacher is an "
    "earlier run of the student",
  ),
  "tfkd_reg": Preset(
    lift(virtual_teacher_loss, select_supervised, temperature=20.0),
    10.0,
    cross_entropy=0.9,
    source="Teacher-free-Knowledge-Distillation, base_resnet18/params.json",
  ),
  "takd": Preset(
    None,
    cross_entropy=0.1,
    kd=0.9,
    source="KD's: the authors search them; the teacher is an assistant of "
    "middle size, itself distilled from a larger one",
  ),
  "function_matching": Preset(
    None,
    cross_entropy=0.0,
    kd=1.0,
    temperature=1.0,
    source="big_vision, configs/proj/distill/bit_i1k.py",
  ),
  "sskd": Preset(
    sskd,
    cross_entropy=0.1,
    kd=0.9,
    views=("rotated_1", "rotated_2", "rotated_3"),
    source="SSKD, student.py",
  ),
  "wkd_logit": Preset(
    wkd_logit,
    source="WKD, configs/cifar100/wkd_l/res32x4_res8x4.yaml, without its decay "
    "and with the cost of the classifier",
  ),
  "wkd_feature": Preset(
    wkd_feature,
    0.08,
    source="WKD, configs/cifar100/wkd_f/res32x4_res8x4.yaml, without its decay",
  ),
  "vid": Preset(vid, source=_REPDISTILLER),
  "cat": Preset(
    functools.partial(cat, normalize=False),
    15.0,
    source="CAT-KD, res32x4_res8x4.yaml",
  ),
  "ickd": Preset(
    functools.partial(ickd, scaling="cifar"), 2.5, source="ICKD, Cifar100"
  ),
  "mgd": Preset(mgd, 1.2e-3, source="cls_KD, res34_distill_res18_cifar.py"),
  "srrl": Preset(srrl, source="KD_SRRL, train_imagenet_distillation.py"),
  "simkd": Preset(simkd, cross_entropy=0.0, source="SimKD, run_distill.sh"),
  "l2": Preset(
    l2, 15.0, source="torchdistill, ce_l2-resnet18_from_resnet34.yaml"
  ),
  "pad_l2": Preset(pad_l2, source="torchdistill, after CSE-L2"),
  "ktaad": Preset(ktaad, source="torchdistill, ktaad"),
  "srd": Preset(srd, kd=1.0, temperature=1.0, source="torchdistill, srd"),
  "vkd": Preset(vkd, kd=1.0, temperature=1.0, source="vkd, defaults"),
  "semckd": Preset(semckd, 400.0, kd=1.0, source="SemCKD, README.md"),
  "afd": Preset(afd, 200.0, kd=0.9, source="AFD, README.md and main.py"),
  "vitkd": Preset(vitkd, source="cls_KD, deit-s3_distill_deit-t, of tokens"),
}
