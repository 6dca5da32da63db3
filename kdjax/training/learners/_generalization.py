"""The front door of domain generalization."""

from collections.abc import Callable, Mapping
from typing import Any

from kdjax import methods
from kdjax.methods import GradientRule, Pass
from kdjax.training.learners._distillation import (
  CLASSIFICATION,
  NO_VIEWS,
  Views,
)
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._checks import check_views
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import Prepare, in_turn, views_of


def generalize(
  student: Any,
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  others: Mapping[str, Any] | None = None,
  on: str | tuple[str, ...] = "image",
  views: Views = NO_VIEWS,
  passes: Mapping[str, Pass] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  rule: GradientRule | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Domain generalization: a learner for a student of several domains.

  A batch has two batch axes, `{"image": [domains, batch, ...], "label":
  [domains, batch], "mask": [domains, batch]}`, and so have the outputs of the
  role `"student"`. All domains go through the student as one batch.

  Args:
    student: the network to train: an NNX module, a `Model` or a `Network`.
    loss: a function whose argument names name its inputs, or an `Objective`,
      such as `methods.preset("vrex")`.
    optimizer: an Optax optimizer, which may take extra arguments.
    others: name -> further networks that are trained, such as one that tells
      the domains apart.
    on: the entry of the batch that the student sees; a tuple of entries for a
      network of several inputs, which gets their dictionary.
    views: name -> `(key, batch) -> inputs` `[domains, batch, ...]`, other views
      of the examples. The outputs of a view `"strong"` are the role
      `"student_strong"`.
    passes: role -> `Pass`, further passes; one of the role `"student"`
      takes the place of the student's own.
    prepare: `(key, batch, run) -> batch`, before the passes, such as a mixture
      of the domains' images; see `pass_loss`.
    metrics: name -> function of arrays, for evaluation on batches of one
      domain; by default accuracy and cross-entropy.
    rule: another way to the gradient, such as a mask of the domains'
      gradients.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if the loss has no such hyper-parameter; from `init` or `step`,
      if the batch lacks an entry that is read.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.ops import masked_mean
    >>> def spread(student_logits, *, where, axis_name):
    ...   return masked_mean(student_logits.var(0), axis_name=axis_name)
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = generalize(student, spread, optax.sgd(0.1), on="x")
    >>> batch = {"x": jnp.ones((3, 4, 3)), "mask": jnp.ones((3, 4), bool)}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, seen = learner.step(state, {}, batch, jax.random.key(1))
    >>> seen["loss"]
    (Array(0., dtype=float32), Array(12., dtype=float32))

  References:
    Gulrajani and Lopez-Paz, `In search of lost domain generalization
    <https://arxiv.org/abs/2007.01434>`_, 2021.
  """
  check_views("generalize", views)
  table = {"student": Pass("student", on=on, train=True, batch_axes=2)}
  table |= {
    f"student_{name}": Pass("student", on=name, train=True, batch_axes=2)
    for name in views
  }
  return make_learner(
    {"student": student, **(others or {})},
    {},
    {**table, **(passes or {})},
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=in_turn(prepare, views_of(views)),
    metrics=CLASSIFICATION if metrics is None else metrics,
    evaluation={"student": Pass("student", on=on)},
    rule=rule,
    axis_name=axis_name,
  )
