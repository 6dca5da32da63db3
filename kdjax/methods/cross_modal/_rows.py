"""The methods of cross-modal transfer, as their authors weigh them."""

import functools
from typing import Any

from kdjax import cross_modal, distillation
from kdjax.methods._row import Row, lift
from kdjax.methods.cross_modal._clip import _clip, _clip_kd
from kdjax.methods.cross_modal._joint import _cross_modal_joint

_TEACHERS = ("teacher_image", "teacher_text")
_STUDENTS = ("student_image", "student_text")


def _taught(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """A teacher on one modality and a student on another."""
  return Row(
    title,
    summary,
    method,
    area="cross_modal",
    networks=("teacher",),
    group="teacher of another modality",
    **needs,
  )


def _towers(title: str, summary: str, method: Any, **needs: Any) -> Row:
  """Two towers, which include their task."""
  options: dict[str, Any] = {
    "source": "CLIP-KD's authors",
    "tuned": "",
  } | needs
  teachers = options.pop("networks", _TEACHERS)
  options["networks"] = (*_STUDENTS, *teachers)
  return Row(
    title,
    summary,
    method,
    area="cross_modal",
    cross_entropy=0.0,
    group="towers",
    domains=(),
    **options,
  )


ROWS: dict[str, Row] = {
  "cross_modal_kd": _taught(
    "cross-modal KD",
    "softened answers from another modality of the same examples",
    None,
    cross_entropy=0.1,
    kd=0.9,
    tuned="",
    source="the weights of KD",
  ),
  "generalized": _taught(
    "generalized distillation",
    "labels, and a teacher that sees privileged information",
    lift(cross_modal.generalized_distillation_loss),
    cross_entropy=0.0,
    tuned="",
    source="kdjax: the middle of the paper's range",
  ),
  "cross_modal_relations": _taught(
    "relation transfer",
    "similarities among examples of another modality, without shared labels",
    lift(distillation.sp_loss, ("student_embeddings", "teacher_embeddings")),
    weight=3000.0,
    source="RepDistiller's weight of SP",
  ),
  "cross_modal_joint": _taught(
    "joint cross-modal objective",
    "labels, softened answers and aligned features of the paired modality",
    _cross_modal_joint,
    cross_entropy=0.0,
    tuned="",
    source="kdjax: equal weights of the three parts",
  ),
  "clip": _towers(
    "CLIP",
    "each image finds its text, and each text its image",
    _clip,
    networks=(),
    source="paper",
  ),
  "clip_fd": _towers(
    "CLIP-KD, FD",
    "embeddings of both towers meet the teacher's",
    functools.partial(_clip_kd, feature=2000.0),
  ),
  "clip_ckd": _towers(
    "CLIP-KD, CRD",
    "similarities of images and texts meet the teacher's",
    functools.partial(_clip_kd, relation=1.0),
  ),
  "clip_icl": _towers(
    "CLIP-KD, ICL",
    "the student's images find the teacher's texts, and texts the images",
    functools.partial(_clip_kd, interactive=1.0),
  ),
  "clip_gd": _towers(
    "CLIP-KD, GD",
    "gradients of the contrastive loss meet the teacher's",
    functools.partial(_clip_kd, gradient=1e8),
    source="paper",
  ),
  "clip_afd": _towers(
    "CLIP-KD, AFD",
    "images find texts by student and teacher embeddings, fused linearly",
    functools.partial(_clip_kd, augmented=1.0),
    source="paper",
  ),
  "clip_kd": _towers(
    "CLIP-KD",
    "FD, CRD and ICL together",
    functools.partial(_clip_kd, feature=2000.0, relation=1.0, interactive=1.0),
  ),
  "affinity_mimicking": _towers(
    "TinyCLIP",
    "similarities meet the teacher's, without a contrastive loss",
    functools.partial(_clip_kd, task=0.0, affinity=1.0),
    source="TinyCLIP's authors",
  ),
}
