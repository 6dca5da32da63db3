"""The front door of fine-tuning."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

from kdjax import methods
from kdjax.methods import Pass
from kdjax.training.learners._distillation import CLASSIFICATION
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import Prepare, augmented_or_prepared


def finetune(
  student: Any,
  past: Any,
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  average: bool = False,
  on: str | tuple[str, ...] = "image",
  augment: Callable[[Array, Any], Any] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Fine-tuning: a learner for a student that starts as a pretrained network.

  The roles of the objective are `"student"` and `"past"`, the pretrained
  network, which is frozen and runs in evaluation mode.

  Args:
    student: the network to train, which starts with the pretrained body and a
      new head: an NNX module, a `Model` or a `Network`.
    past: the pretrained network, or None for a loss that does not read it.
    loss: a function whose argument names name its inputs, such as
      `mine(student_embeddings, past_embeddings)`; or an `Objective`, such as
      `methods.preset("co_tuning", relationship=...)`.
    optimizer: an Optax optimizer; see also `layerwise_learning_rates`
      and `gradual_unfreezing`.
    average: whether the average of the student's parameters, which
      `parameter_ema` keeps in the optimizer, runs too: the role
      `"average"`, the momentum encoder of Bi-Tuning.
    on: the entry of the batch that the networks see; a tuple of entries for
      networks of several inputs, which get their dictionary.
    augment: `(key, inputs) -> inputs`; both networks see the same view.
    prepare: `(key, batch, run) -> batch`, before the passes; see
      `pass_loss`.
    metrics: name -> function of arrays, for evaluation; by default accuracy
      and cross-entropy.
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
    >>> def gap(student_logits, past_logits):
    ...   return jnp.sum((student_logits - past_logits) ** 2, -1)
    >>> network = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = finetune(network, network, gap, optax.sgd(0.1), on="x")
    >>> batch = {"x": jnp.ones((4, 3)), "mask": jnp.ones(4, bool)}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> _, seen = learner.step(state, learner.frozen, batch, jax.random.key(1))
    >>> seen["loss"]
    (Array(0., dtype=float32), Array(4., dtype=float32))

  References:
    Li and Hoiem, `Learning without forgetting
    <https://arxiv.org/abs/1606.09282>`_, 2016.
  """
  passes = {"student": Pass("student", on=on, train=True)}
  if past is not None:
    passes["past"] = Pass("past", on=on)
  if average:
    passes["average"] = Pass("average", on=on)
  prepare = augmented_or_prepared("finetune", prepare, augment, on)
  return make_learner(
    {"student": student},
    {} if past is None else {"past": past},
    passes,
    as_objective(loss, **hyperparameters),
    optimizer,
    prepare=prepare,
    metrics=CLASSIFICATION if metrics is None else metrics,
    evaluation={"student": Pass("student", on=on)},
    axis_name=axis_name,
  )
