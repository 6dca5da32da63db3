"""Methods that compare logits and learn no part of their own."""

from typing import Any

from kdjax import distillation
from kdjax.methods._row import lift
from kdjax.methods.distillation._row_kinds import (
  CLS_KD,
  LSKD,
  MDISTILLER,
  REPDISTILLER,
  row,
)


def _standardized(
  student_logits: Any, teacher_logits: Any, labels: Any
) -> tuple[Any, ...]:
  """The logits as logit standardization gives them, and the labels."""
  return (
    distillation.standardize_logits(student_logits),
    distillation.standardize_logits(teacher_logits),
    labels,
  )


ROWS = {
  "scratch": row(
    "logits",
    "No distillation",
    "trains on the labels alone",
    None,
    source="cross-entropy alone",
    networks=(),
  ),
  "kd": row(
    "logits",
    "Knowledge distillation, Hinton 2015",
    "matches the teacher's softened class probabilities",
    None,
    cross_entropy=0.1,
    kd=0.9,
    source=REPDISTILLER,
  ),
  "function_matching": row(
    "logits",
    "Function matching, Beyer 2022",
    "matches the teacher without labels, on the same mixed views, for long",
    None,
    cross_entropy=0.0,
    kd=1.0,
    temperature=1.0,
    source="big_vision, configs/proj/distill/bit_i1k.py",
  ),
  "dkd": row(
    "logits",
    "Decoupled KD, Zhao 2022",
    "weighs the labeled class and the other classes apart",
    lift(distillation.dkd_loss, temperature=4.0, alpha=1.0, beta=8.0),
    warmup_epochs=20,
    source=MDISTILLER,
  ),
  "nkd": row(
    "logits",
    "Normalized KD, Yang 2023",
    "normalizes the probabilities of the classes other than the labeled one",
    lift(distillation.nkd_loss, temperature=3.0, gamma=3.5),
    source=CLS_KD,
  ),
  "dist": row(
    "logits",
    "DIST, Huang 2022",
    "correlates the predictions within each example and within each class",
    lift(distillation.dist_loss, temperature=4.0, beta=1.0, gamma=1.0),
    weight=2.0,
    source="DIST_KD and image_classification_sota, dist_t4",
  ),
  "lskd": row(
    "logits",
    "Logit standardization, Sun 2024",
    "standardizes the logits of both networks before KD",
    lift(distillation.lskd_loss, temperature=2.0),
    weight=9.0,
    cross_entropy=0.1,
    source=LSKD,
  ),
  "dkd+lskd": row(
    "logits",
    "DKD on standardized logits, Sun 2024",
    "standardizes the logits of both networks before DKD",
    lift(
      distillation.dkd_loss,
      _standardized,
      temperature=2.0,
      alpha=9.0,
      beta=72.0,
    ),
    warmup_epochs=20,
    source=LSKD,
  ),
  "ttm": row(
    "logits",
    "Transformed teacher matching, Zheng 2024",
    "softens the teacher's probabilities but not the student's",
    lift(distillation.ttm_loss, gamma=0.1),
    weight=45.0,
    source="TTM, README.md, vgg13 to vgg8",
  ),
  "wttm": row(
    "logits",
    "Weighted TTM, Zheng 2024",
    "weighs TTM by how smooth the teacher's distribution is",
    lift(distillation.wttm_loss, gamma=0.2),
    weight=4.0,
    source="TTM, README.md, vgg13 to vgg8, where it accompanies CRD",
  ),
  "rld": row(
    "logits",
    "Refined logit distillation, Sun 2024",
    "leaves out the classes that the teacher ranks above the label by mistake",
    lift(distillation.rld_loss, temperature=4.0, beta=8.0),
    warmup_epochs=20,
    source="RLD, mdistiller/engine/cfg.py",
  ),
  "wsld": row(
    "logits",
    "Weighted soft labels, Zhou 2021",
    "weighs the soft targets of each example by bias and variance",
    lift(distillation.wsld_loss, temperature=4.0),
    weight=2.25,
    source="cls_KD, configs/distillers/cifar100",
  ),
  "binary_kl": row(
    "logits",
    "Binary KL (VanillaKD), Hao 2023",
    "matches each class's probability against all other classes",
    lift(distillation.binary_kl_loss),
    source="vanillaKD, train-kd.py",
  ),
  "takd": row(
    "logits",
    "Teacher assistant, Mirzadeh 2020",
    "distills twice, through a network of middle size",
    None,
    cross_entropy=0.1,
    kd=0.9,
    source="KD's: the authors search them; the teacher is an assistant of "
    "middle size, itself distilled from a larger one",
  ),
  "tfkd": row(
    "logits",
    "Teacher-free KD from itself, Yuan 2020",
    "takes an earlier run of the student as the teacher",
    None,
    cross_entropy=0.1,
    kd=0.9,
    temperature=1.0,
    source="torchdistill, tfkd-resnet18_from_resnet18; the teacher is an "
    "earlier run of the student",
  ),
  "tfkd_reg": row(
    "logits",
    "Teacher-free regularization, Yuan 2020",
    "takes a hand-made distribution around the label as the teacher",
    lift(distillation.virtual_teacher_loss, temperature=20.0),
    weight=10.0,
    cross_entropy=0.9,
    source="Teacher-free-Knowledge-Distillation, base_resnet18/params.json",
    networks=(),
  ),
}
