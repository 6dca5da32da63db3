"""Learners: networks, passes, an objective and an optimizer, made to train."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import methods
from kdjax.methods import GradientRule, Pass
from kdjax.training.networks._models import Variables, as_network
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.optimizers._optimizers import Optimizer, as_optimizer
from kdjax.training.steps._evaluation import Metric, make_eval_step
from kdjax.training.steps._passes import LossFn, Metrics, Prepare, pass_loss
from kdjax.training.steps._state import TrainState
from kdjax.training.steps._steps import Step, make_train_step


class Learner(NamedTuple):
  """Learner: pure functions that start, train and evaluate students.

  Attributes:
    init: `(key, batch, **hyperparameters) -> TrainState`. Only the shapes of
      the batch count; it may be of `jax.ShapeDtypeStruct`. Hyper-parameters of
      the objective replace those of the learner, and may be traced.
    step: `(state, frozen, batch, key, *, axis_name=...) -> state, metrics`.
    evaluate: `(state, frozen, batch, *, axis_name=...) -> metrics`, pairs (sum,
      count).
    frozen: the variables of the networks that are not trained, by name. They
      are an argument of `step` and `evaluate`: neither in a closure, where
      they would be constants of the program, nor in the state.
    loss_fn: the passes and the objective.
    modules: the trained networks as they were given, by name.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax import training
    >>> from kdjax.distillation import kd_loss
    >>> teacher = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = training.distill(
    ...   student, teacher, kd_loss, optax.adam(1e-3), temperature=4.0, on="x"
    ... )
    >>> batch = {
    ...   "x": jnp.ones((4, 3)),
    ...   "label": jnp.zeros(4, int),
    ...   "mask": jnp.ones(4, bool),
    ... }
    >>> state = learner.init(jax.random.key(0), batch)
    >>> step = jax.jit(learner.step)
    >>> state, metrics = step(state, learner.frozen, batch, jax.random.key(1))
    >>> state.step
    Array(1, dtype=int32)

  References:
    `optax.GradientTransformation
    <https://optax.readthedocs.io/en/latest/api/transformations.html>`_ and
    `BlackJAX <https://github.com/blackjax-devs/blackjax>`_, whose `init` and
    `step` are all that a loop needs.
  """

  init: Callable[..., TrainState]
  step: Step
  evaluate: Callable[..., Metrics]
  frozen: Mapping[str, Variables]
  loss_fn: LossFn
  modules: Mapping[str, Any]


def make_learner(
  networks: Mapping[str, Any],
  frozen: Mapping[str, Any],
  passes: Mapping[str, Pass],
  objective: methods.Objective,
  optimizer: Optimizer,
  *,
  prepare: Prepare | None = None,
  metrics: Mapping[str, Metric] | None = None,
  evaluation: Mapping[str, Pass] | None = None,
  rule: GradientRule | None = None,
  axis_name: str | None = None,
) -> Learner:
  """Learner of any area: from networks, passes and an objective.

  `distill`, `adapt`, `generalize` and `finetune` are
  short tables over it.

  Args:
    networks: name -> the networks to train: NNX modules, `Model`s or
      `Network`s.
    frozen: name -> the networks that stay as they are, with weights; or a
      `CachedTeacher`.
    passes: role -> `Pass`, for training.
    objective: the `Objective` that training minimizes.
    optimizer: an Optax optimizer, which may take extra arguments.
    prepare: `(key, batch, run) -> batch`, before the passes of a step.
    metrics: name -> function of arrays, for evaluation; see
      `make_eval_step`.
    evaluation: role -> `Pass`, for evaluation; by default that of the
      first trained network on its first entry.
    rule: another way to the gradient, such as `dot_gradients`.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps `step` and `evaluate`. `parallelize` names it itself.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, the objective no `Objective`, or the
      optimizer not one of Optax.
    ValueError: if a pass names no network; from `init`, if the batch lacks an
      entry that is read, or there is no such hyper-parameter.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax.methods import preset
    >>> learner = make_learner(
    ...   {"student": nnx.Linear(3, 2, rngs=nnx.Rngs(1))},
    ...   {},
    ...   {"student": Pass("student", on="x", train=True)},
    ...   preset("scratch"),
    ...   optax.sgd(0.1),
    ... )

  References:
    The networks, passes, objective and optimizer of this library's guide.
  """
  made = {k: as_network(f"networks[{k!r}]", v) for k, v in networks.items()}
  forwards: dict[str, Any] = {k: v.forward for k, v in made.items()}
  fixed = {}
  for name, value in frozen.items():
    if isinstance(value, CachedTeacher):
      forwards[name] = value
      continue
    network = as_network(f"frozen[{name!r}]", value)
    forwards[name] = network.forward
    # A network without weights would be initialized by this key.
    fixed[name] = network.init(jax.random.key(0))
  loss_fn = pass_loss(forwards, passes, objective, prepare=prepare)
  if evaluation is None:
    evaluation = _evaluation_passes(passes)
  looked = pass_loss(forwards, evaluation, objective)
  transformation = as_optimizer("make_learner", optimizer)
  start_rule = rule.init if rule else lambda params: ()

  def init(key: Array, batch: Any, **hyperparameters: Any) -> TrainState:
    variables = {
      name: network.init(jax.random.fold_in(key, i) if i else key)
      for i, (name, network) in enumerate(made.items())
    }
    params = {k: v.params for k, v in variables.items()}
    state = {k: v.state for k, v in variables.items()}
    known = dict(fixed)
    if "student" in variables:
      known.setdefault("average", variables["student"])
    # Only shapes: an axis that this is mapped over does not matter.
    run = functools.partial(loss_fn.run, axis_name=None)
    specs, _, _ = jax.eval_shape(
      run, params, state, known, batch, jax.random.key(0)
    )
    # A key of its own: a network may have parts of the same names and shapes.
    parts = objective.init(jax.random.fold_in(key, len(made)), specs)
    own = with_hyperparameters(parts[1], hyperparameters)
    # Each array on its own, so that the state may be donated.
    params, state = jax.tree.map(
      jnp.copy,
      (params | {"objective": parts[0]}, state | {"objective": own}),
    )
    return TrainState(
      jnp.zeros((), jnp.int32),
      params,
      state,
      transformation.init(params),
      start_rule(params),
    )

  return Learner(
    init,
    make_train_step(loss_fn, optimizer, axis_name=axis_name, rule=rule),
    make_eval_step(looked, metrics or {}, axis_name=axis_name),
    fixed,
    loss_fn,
    dict(networks),
  )


def with_hyperparameters(state: Any, values: Mapping[str, Any]) -> Any:
  """The state of an objective with other hyper-parameters.

  A name is looked for in the objective itself and in the parts of a
  `combine`, whose weights have the names of the parts.
  """
  for name, value in values.items():
    if name not in _names(state):
      raise ValueError(
        f"init: {name} is no hyper-parameter; expected one of "
        f"{sorted(set(_names(state)))}."
      )
    state = _replaced(state, name, jnp.asarray(value, float))
  return state


def as_objective(
  loss: Callable[..., Any] | methods.Objective, **hyperparameters: Any
) -> methods.Objective:
  """Returns an objective, of a loss whose arguments are bound by name."""
  if not isinstance(loss, methods.Objective):
    return methods.stateless(loss, **hyperparameters)
  if hyperparameters:
    raise ValueError(
      f"{', '.join(hyperparameters)} given beside an Objective; expected them "
      "where it is made."
    )
  return loss


def _evaluation_passes(passes: Mapping[str, Pass]) -> dict[str, Pass]:
  """The student alone, on the first entry that it sees in training."""
  row = next(row for row in passes.values() if row.train)
  names = (row.on,) if isinstance(row.on, str) else row.on
  plain = tuple(name.rpartition(".")[2] for name in names)
  on = plain[0] if isinstance(row.on, str) else plain
  return {row.network: Pass(row.network, on=on)}


def _names(tree: Any) -> list[str]:
  """The names of all numbers in the mappings of an objective's state."""
  if not isinstance(tree, Mapping):
    return []
  names = [k for k, v in tree.items() if hasattr(v, "dtype") and k != "step"]
  parts = [v for k, v in tree.items() if k != "module"]
  return names + [name for part in parts for name in _names(part)]


def _replaced(tree: Any, name: str, value: Array) -> Any:
  """The tree with a number of this name replaced wherever it stands."""
  if not isinstance(tree, Mapping):
    return tree
  return {
    k: value
    if k == name and hasattr(v, "dtype")
    else (v if k == "module" else _replaced(v, name, value))
    for k, v in tree.items()
  }
