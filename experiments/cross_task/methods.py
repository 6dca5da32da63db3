"""The methods: chains of two stages, rows of the library's table."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import optax

from kdjax import methods as kmethods
from kdjax import training

SCRATCH = "scratch"
ALL_LABELS = "all_labels"
TEACHER = "teacher"  # without any training of a student
AMALGAMATION = "amalgamation"
NAMES = {
  SCRATCH: "from scratch",
  "relation": "ReFilled, stage 1 alone",
  "classes": "ReFilled, stage 2 alone",
  "refilled": "ReFilled",
  AMALGAMATION: "amalgamation, no labels",
  TEACHER: "teacher, no training",
  ALL_LABELS: "all labels",
}
# Method -> its two stages, of `kmethods.names()`; as many steps each.
NEW_CLASSES = {
  SCRATCH: (SCRATCH, SCRATCH),
  "relation": ("refilled_relation", SCRATCH),
  "classes": ("refilled", "refilled"),
  "refilled": ("refilled_relation", "refilled"),
  ALL_LABELS: (SCRATCH, SCRATCH),
}
ALL_CLASSES = {
  SCRATCH: (SCRATCH, SCRATCH),
  AMALGAMATION: (AMALGAMATION, AMALGAMATION),
  ALL_LABELS: (SCRATCH, SCRATCH),
}
METHODS = ("relation", "classes", "refilled", AMALGAMATION)


def describe() -> dict[str, tuple[str, str]]:
  """The task and the summary of each method, for `--methods help`."""

  def summary(name: str) -> str:
    return kmethods.describe(name).summary

  return {
    "relation": ("new classes", summary("refilled_relation")),
    "classes": ("new classes", summary("refilled")),
    "refilled": ("new classes", "both stages, one after the other"),
    AMALGAMATION: ("all classes", summary(AMALGAMATION)),
  }


class Teaching(NamedTuple):
  """The outputs of its teachers that a stage may need."""

  network: Any  # of half of the classes; of several teachers a list
  centers: Any = None  # mean embeddings of the student's classes, of one seed
  classes: Sequence[Any] = ()  # of each of several teachers


def make_learner(
  stage: str, student: training.Network, teaching: Teaching, config: Any
) -> training.Learner:
  """The learner of a stage with its published weights."""
  optimizer = optax.adam(config.learning_rate)
  if stage == AMALGAMATION:
    method = kmethods.create(stage, teacher_classes=teaching.classes)
    return training.guide(student, teaching.network, method, optimizer)
  options: dict[str, Any] = {}
  if stage == "refilled":
    options["class_centers"] = teaching.centers
  teacher = None if stage == SCRATCH else teaching.network
  return training.distill(
    student, teacher, kmethods.create(stage, **options), optimizer
  )
