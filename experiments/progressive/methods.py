"""The methods as learners of one student."""

from typing import Any

import optax

from experiments.frame import networks
from kdjax import methods as kmethods
from kdjax import metrics, training

SCRATCH, TEACHER, DIRECT = "scratch", "teacher", "kd"
# Method -> its name in `kmethods.names()`. All chains of assistants, and the
# direct way, train each of their networks by TAKD.
METHODS = {
  DIRECT: "takd",
  "takd": "takd",
  "takd_search": "takd",
  "takd_all": "takd",
  "dgkd": "dgkd",
  "annealing": "annealing",
  "rco": "rco",
  "stagewise": "stagewise",
  "sandwich": "sandwich",
}
NAMES = {
  SCRATCH: "from scratch",
  DIRECT: "direct KD",
  "takd": "TAKD, even accuracies",
  "takd_search": "TAKD, searched",
  "takd_all": "TAKD, all assistants",
  "dgkd": "DGKD",
  "annealing": "annealing KD",
  "rco": "RCO",
  "stagewise": "stage by stage",
  "sandwich": "progressive shrinking",
  TEACHER: "teacher",
}
_CHAINS = {
  DIRECT: "the teacher teaches the student",
  "takd": "through assistants of evenly spaced validation accuracies",
  "takd_search": "through the chain that a search over trained pairs finds",
  "takd_all": "through all assistants, from large to small",
}
# The layers of a student of two hidden layers, from the input on.
GROUPS = ("student/layers/0", "student/layers/1", "student/head")


def describe() -> dict[str, tuple[str, str]]:
  """The area and the summary of each method, for `--methods help`."""
  return {
    name: (
      "chain" if name in _CHAINS else kmethods.describe(known).area,
      _CHAINS.get(name, kmethods.describe(known).summary),
    )
    for name, known in METHODS.items()
  }


def make_network(width: int, job: Any) -> training.Network:
  """A network of two hidden layers of a width."""
  images, classes = job.data.train["image"], job.data.classes
  return networks.make_network("mlp", images, classes, hidden=(width, width))


def make_learner(
  method: str, width: int, job: Any, teachers: tuple[int, ...] = ()
) -> training.Learner:
  """The learner of a student, by the widths of the student and its teachers."""
  config = job.config
  student = make_network(width, job)
  taught = [make_network(x, job) for x in teachers]
  optimizer = optax.adam(config.learning_rate)
  known = kmethods.create(METHODS.get(method, method), steps=config.steps)
  scores = {"metrics": {"accuracy": (metrics.accuracy, ("logits", "labels"))}}
  if method in ("dgkd", "rco"):
    return training.guide(student, taught, known, optimizer, **scores)
  views = {}
  if method == "sandwich":
    student = training.slimmable(student)
    views = kmethods.sandwich_views(
      [x / width for x in (*config.students, *config.assistants)]
    )
  if method == "stagewise":
    every = max(1, config.steps // len(GROUPS))
    optimizer = kmethods.stagewise_training(optimizer, GROUPS, every=every)
  teacher = taught[0] if taught else None
  return training.distill(
    student, teacher, known, optimizer, views=views, **scores
  )
