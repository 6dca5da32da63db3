"""Methods on logits, as their authors weigh them."""

import functools
from typing import Any

from kdjax import distillation as losses
from kdjax.methods._row import Row, lift
from kdjax.methods.distillation.features._wkd import wkd_logit
from kdjax.methods.distillation.logits._crld_cskd_mlld import (
  crld,
  cskd,
  mlld,
)
from kdjax.methods.distillation.logits._ctkd import ctkd
from kdjax.methods.distillation.logits._ofa import ofa
from kdjax.methods.distillation.logits._sdd import sdd
from kdjax.methods.distillation.logits._uskd import uskd

_REPDISTILLER = "RepDistiller, scripts/run_cifar_distill.sh"
_MDISTILLER = "mdistiller, configs/cifar100"
_CLS_KD = "cls_KD, configs/distillers/cifar100"
_LSKD = "logit-standardization-KD, tools/train.py"

# A method with a teacher; the rows below name those that have none.
_taught = functools.partial(Row, networks=("teacher",))


def _standardized(
  student_logits: Any, teacher_logits: Any, labels: Any
) -> tuple[Any, ...]:
  """The logits as logit standardization gives them, and the labels."""
  return (
    losses.standardize_logits(student_logits),
    losses.standardize_logits(teacher_logits),
    labels,
  )


ROWS: dict[str, Row] = {
  "scratch": Row(
    "No distillation",
    "trains on the labels alone",
    None,
    source="cross-entropy alone",
  ),
  "kd": _taught(
    "Knowledge distillation, Hinton 2015",
    "matches the teacher's softened class probabilities",
    None,
    cross_entropy=0.1,
    kd=0.9,
    source=_REPDISTILLER,
  ),
  "function_matching": _taught(
    "Function matching, Beyer 2022",
    "matches the teacher without labels, on the same mixed views, for long",
    None,
    cross_entropy=0.0,
    kd=1.0,
    temperature=1.0,
    source="big_vision, configs/proj/distill/bit_i1k.py",
  ),
  "dkd": _taught(
    "Decoupled KD, Zhao 2022",
    "weighs the labeled class and the other classes apart",
    lift(losses.dkd_loss, temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source=_MDISTILLER,
  ),
  "nkd": _taught(
    "Normalized KD, Yang 2023",
    "normalizes the probabilities of the classes other than the labeled one",
    lift(losses.nkd_loss, temperature=3.0, gamma=3.5),
    source=_CLS_KD,
  ),
  "dist": _taught(
    "DIST, Huang 2022",
    "correlates the predictions within each example and within each class",
    lift(losses.dist_loss, temperature=4.0, beta=1.0, gamma=1.0),
    weight=2.0,
    source="DIST_KD and image_classification_sota, dist_t4",
  ),
  "lskd": _taught(
    "Logit standardization, Sun 2024",
    "standardizes the logits of both networks before KD",
    lift(losses.lskd_loss, temperature=2.0),
    weight=9.0,
    cross_entropy=0.1,
    source=_LSKD,
  ),
  "dkd+lskd": _taught(
    "DKD on standardized logits, Sun 2024",
    "standardizes the logits of both networks before DKD",
    lift(losses.dkd_loss, _standardized, temperature=2.0, alpha=9.0, beta=72.0),
    warmup_epochs=20,
    source=_LSKD,
  ),
  "ttm": _taught(
    "Transformed teacher matching, Zheng 2024",
    "softens the teacher's probabilities but not the student's",
    lift(losses.ttm_loss, gamma=0.1),
    weight=45.0,
    source="TTM, README.md, vgg13 to vgg8",
  ),
  "wttm": _taught(
    "Weighted TTM, Zheng 2024",
    "weighs TTM by how smooth the teacher's distribution is",
    lift(losses.wttm_loss, gamma=0.2),
    weight=4.0,
    source="TTM, README.md, vgg13 to vgg8, where it accompanies CRD",
  ),
  "mlld": _taught(
    "Multi-level logit distillation, Jin 2023",
    "matches logits by example, by class and by batch, on two views",
    mlld,
    cross_entropy=0.1,
    views=("strong",),
    source="Multi-Level-Logit-Distillation, mdistiller/engine/cfg.py",
  ),
  "ofa": _taught(
    "One-for-all, Hao 2023",
    "gives each stage of the student a classifier that learns the teacher's "
    "logits",
    ofa,
    source="OFAKD, train.py and README.md",
  ),
  "rld": _taught(
    "Refined logit distillation, Sun 2024",
    "leaves out the classes that the teacher ranks above the label by mistake",
    lift(losses.rld_loss, temperature=4.0, beta=8.0),
    warmup_epochs=20,
    source="RLD, mdistiller/engine/cfg.py",
  ),
  "crld": _taught(
    "Cross-view regularization, Zhang 2024",
    "matches logits within and across a weak and a strong view",
    crld,
    views=("strong",),
    source="CRLD, mdistiller/engine/cfg.py",
  ),
  "wsld": _taught(
    "Weighted soft labels, Zhou 2021",
    "weighs the soft targets of each example by bias and variance",
    lift(losses.wsld_loss, temperature=4.0),
    weight=2.25,
    source="cls_KD, configs/distillers/cifar100",
  ),
  "binary_kl": _taught(
    "Binary KL (VanillaKD), Hao 2023",
    "matches each class's probability against all other classes",
    lift(losses.binary_kl_loss),
    source="vanillaKD, train-kd.py",
  ),
  "sdd_kd": _taught(
    "Scale-decoupled KD, Wei 2024",
    "applies KD to the logits of regions of the last map",
    functools.partial(sdd, inner="kd", temperature=4.0),
    weight=0.9,
    cross_entropy=0.1,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py",
  ),
  "sdd_dkd": _taught(
    "Scale-decoupled DKD, Wei 2024",
    "applies DKD to the logits of regions of the last map",
    functools.partial(sdd, inner="dkd", temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source="SDD-CVPR2024, mdistiller/engine/cfg.py, train_origin.py",
  ),
  "ctkd": _taught(
    "Curriculum temperature, Li 2023",
    "learns the temperature against the student, more and more",
    ctkd,
    weight=0.9,
    cross_entropy=0.1,
    source="CTKD, scripts/run_cifar_distill.sh",
  ),
  "wkd_logit": _taught(
    "Wasserstein distillation of logits, Lv 2024",
    "transports class probabilities by the likeness of the classes",
    wkd_logit,
    source="WKD, configs/cifar100/wkd_l/res32x4_res8x4.yaml, without its decay "
    "and with the cost of the classifier",
  ),
  "takd": _taught(
    "Teacher assistant, Mirzadeh 2020",
    "distills twice, through a network of middle size",
    None,
    cross_entropy=0.1,
    kd=0.9,
    source="KD's: the authors search them; the teacher is an assistant of "
    "middle size, itself distilled from a larger one",
  ),
  "tfkd": _taught(
    "Teacher-free KD from itself, Yuan 2020",
    "takes an earlier run of the student as the teacher",
    None,
    cross_entropy=0.1,
    kd=0.9,
    temperature=1.0,
    source="torchdistill, tfkd-resnet18_from_resnet18; the teacher is an "
    "earlier run of the student",
  ),
  "tfkd_reg": Row(
    "Teacher-free regularization, Yuan 2020",
    "takes a hand-made distribution around the label as the teacher",
    lift(losses.virtual_teacher_loss, temperature=20.0),
    weight=10.0,
    cross_entropy=0.9,
    source="Teacher-free-Knowledge-Distillation, base_resnet18/params.json",
  ),
  "uskd": Row(
    "Universal self-KD, Yang 2023",
    "makes soft labels from the student and a weak classifier on a stage",
    functools.partial(uskd, alpha=0.1, beta=0.1, weak_weight=0.1),
    source=_CLS_KD,
  ),
  "cskd": Row(
    "Class-wise self-distillation, Yun 2020",
    "matches the student's own prediction of another example of the class",
    cskd,
    views=("partner",),
    source="CS-KD, README.md",
  ),
}
