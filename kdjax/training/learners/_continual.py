"""The front door of continual learning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array

from kdjax import methods
from kdjax.methods import Pass
from kdjax.training.learners._distillation import CLASSIFICATION
from kdjax.training.learners._learner import Learner, as_objective, make_learner
from kdjax.training.optimizers._optimizers import Optimizer
from kdjax.training.steps._evaluation import Metric
from kdjax.training.steps._passes import Prepare, augmented_or_prepared


def continue_on(
  student: Any,
  loss: Callable[..., Any] | methods.Objective,
  optimizer: Optimizer,
  *,
  past: Any = None,
  replay: Sequence[str] = (),
  on: str = "image",
  augment: Callable[[Array, Any], Any] | None = None,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Continual learning: a learner for a student of one task after the other.

  The roles of the objective are `"student"` on the current examples, `"past"`,
  the network before the current task, on the same ones, and the student on
  replayed examples, which are parts of the batch: `"replay"`, and
  `"second_replay"` for a second draw. Each part has `on`, `"mask"` and the
  entries that the loss reads (`"label"`, `"stored_logits"`).

  Args:
    student: the network to train, with a head for the classes of all tasks.
    loss: a function whose argument names name its inputs, such as
      `mine(student_logits, past_logits, replay_logits, replay_labels)`; or an
      `Objective`, such as `methods.preset("der_plus_plus")`.
    optimizer: an Optax optimizer.
    past: the network before the current task, whose weights are in `frozen`, or
      None for a loss that does not read it. After a task the student takes its
      place: `frozen = {"past": Variables(state.params["student"],
      state.state["student"])}`, without another compilation.
    replay: names of the parts of the batch that hold replayed examples; see
      `kdjax.continual.reservoir_sample`, whose mask is the part's `"mask"`. An
      empty buffer, of which nothing is True, adds nothing.
    on: the entry of the batch, and of its parts, that the networks see.
    augment: `(key, inputs) -> inputs`, of the current examples; student and
      past see the same view.
    prepare: `(key, batch, run) -> batch`, before the passes; see `pass_loss`.
    metrics: name -> function of arrays, for evaluation; by default accuracy
      and cross-entropy.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss; numbers are in the state, as arrays.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if augment and prepare are both given, or the loss has no such
      hyper-parameter; from `init` or `step`, if the batch lacks a part or an
      entry that is read.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import preset
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> learner = continue_on(
    ...   student, preset("er"), optax.sgd(0.1), replay=("replay",), on="x"
    ... )
    >>> part = {
    ...   "x": jnp.ones((4, 3)),
    ...   "label": jnp.zeros(4, int),
    ...   "mask": jnp.ones(4, bool),
    ... }
    >>> batch = part | {"replay": part}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, seen = learner.step(state, {}, batch, jax.random.key(1))
    >>> sorted(seen)
    ['ce/loss', 'er/loss', 'loss']

  References:
    Buzzega et al., `Dark experience for general continual learning
    <https://arxiv.org/abs/2004.07211>`_, 2020.
  """
  passes = {"student": Pass("student", on=on, train=True)}
  if past is not None:
    passes["past"] = Pass("past", on=on)
  passes |= {
    name: Pass("student", on=f"{name}.{on}", train=True) for name in replay
  }
  prepare = augmented_or_prepared("continue_on", prepare, augment, on)
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
