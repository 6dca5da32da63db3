"""The front door of distillation."""

import types
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

from kdjax import methods, ops
from kdjax.methods import GradientRule, Pass
from kdjax.metrics import accuracy, agreement, entropy
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._checks import check_views
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import views_of

Views = Mapping[str, Callable[[Array, Any], Any]]
NO_VIEWS: Views = types.MappingProxyType({})


def distill(
  student: Any,
  teacher: Any,
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  on: str | tuple[str, ...] = "image",
  teacher_on: str | tuple[str, ...] | None = None,
  augment: Callable[[Array, Any], Any] | None = None,
  views: Views = NO_VIEWS,
  metrics: Mapping[str, Metric] | None = None,
  rule: GradientRule | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Distillation: a learner for a student that learns from a teacher.

  Args:
    student: the network to train: an NNX module, a `Model` (that of a Linen
      module is `from_linen(module, variables)`) or a `Network`.
    teacher: the frozen network, in evaluation mode; a `CachedTeacher`,
      whose outputs come with the batch; or None to train on labels alone.
    loss: a function whose argument names name its inputs, such as
      `kdjax.distillation.kd_loss` or `mine(student_logits,
      teacher_logits, labels, *, slack)`; or an `Objective`, such as
      `methods.preset("dkd")`.
    optimizer: an Optax optimizer, which may take extra arguments.
    on: the entry of the batch that the student sees; a tuple of entries for a
      network of several inputs, which gets their dictionary.
    teacher_on: the entry that the teacher sees, if another one.
    augment: `(key, inputs) -> inputs`; student and teacher see the same view.
    views: name -> `(key, batch) -> inputs`, other views of each example, for
      objectives that compare several. The outputs of a view `"strong"` are the
      roles `"student_strong"` and `"teacher_strong"`. The key is that of
      `augment`, and batch statistics follow from one view to the next.
    metrics: name -> function of arrays, for evaluation. By default `accuracy`
      and `cross_entropy`; with a teacher also `agreement`, `kl` (of the teacher
      to the student, at temperature 1), `teacher_accuracy` and
      `teacher_entropy`.
    rule: another way to the gradient, such as `dot_gradients`.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`. Its batches have `on`, `"mask"` and the entries that the loss
    reads.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if a cached teacher is to see augmented or other views, or the
      loss has no such hyper-parameter; from `init` or `step`, if the batch
      lacks an entry that is read, or the loss reads a teacher and there is
      none.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.distillation import kd_loss
    >>> teacher = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = distill(
    ...   student, teacher, kd_loss, optax.adam(1e-3), temperature=4.0, on="x"
    ... )
    >>> batch = {
    ...   "x": jnp.ones((4, 3)),
    ...   "label": jnp.zeros(4, int),
    ...   "mask": jnp.ones(4, bool),
    ... }
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state.state["objective"]["temperature"]
    Array(4., dtype=float32)

  References:
    Hinton et al., `Distilling the knowledge in a neural network
    <https://arxiv.org/abs/1503.02531>`_, 2015; Beyer et al., `Knowledge
    distillation: a good teacher is patient and consistent
    <https://arxiv.org/abs/2106.05237>`_, 2021: one view for both.
  """
  check_views("distill", views)
  if isinstance(teacher, CachedTeacher) and (augment is not None or views):
    raise ValueError(
      "distill: augment or views is given, but a CachedTeacher saw no such "
      "view; expected neither. Augment the batch beforehand by "
      "kdjax.data.augment_examples, as the cache was."
    )
  seen = on if teacher_on is None else teacher_on
  passes = {"student": Pass("student", on=on, train=True)}
  passes |= {
    f"student_{name}": Pass("student", on=name, train=True) for name in views
  }
  evaluation = {"student": Pass("student", on=on)}
  frozen = {}
  if teacher is not None:
    frozen["teacher"] = teacher
    told = {"teacher": Pass("teacher", on=seen)}
    passes |= told
    evaluation |= told
    passes |= {f"teacher_{k}": Pass("teacher", on=k) for k in views}
  if metrics is None:
    metrics = CLASSIFICATION
    if teacher is not None:
      metrics = metrics | FIDELITY
  return make_learner(
    {"student": student},
    frozen,
    passes,
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=views_of(
      views, augment=augment, on=on if isinstance(on, str) else on[0]
    ),
    metrics=metrics,
    evaluation=evaluation,
    rule=rule,
    axis_name=axis_name,
  )


# Metrics of a classifier, as names of arrays bind them.
CLASSIFICATION: dict[str, Metric] = {
  "accuracy": (accuracy, ("logits", "labels")),
  "cross_entropy": (ops.cross_entropy, ("logits", "labels")),
}
# Metrics that tell whether distillation helps: docs/diagnostics.md.
FIDELITY: dict[str, Metric] = {
  "agreement": (agreement, ("student_logits", "teacher_logits")),
  "kl": (ops.kl_divergence, ("student_logits", "teacher_logits")),
  "teacher_accuracy": (accuracy, ("teacher_logits", "labels")),
  "teacher_entropy": (entropy, ("teacher_logits",)),
}
