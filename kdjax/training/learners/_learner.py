"""Learners: a method, networks and an optimizer, made to train."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import methods
from kdjax.training.learners._hyperparameters import with_hyperparameters
from kdjax.training.learners._measures import measures_of
from kdjax.training.networks._models import Network, Variables, as_network
from kdjax.training.networks._teachers import CachedTeacher
from kdjax.training.optimizers._optimizers import Optimizer, as_optimizer
from kdjax.training.steps._checks import check_views
from kdjax.training.steps._evaluation import Metric, make_eval_step
from kdjax.training.steps._passes import (
  LossFn,
  Metrics,
  in_turn,
  pass_loss,
  views_of,
)
from kdjax.training.steps._state import TrainState
from kdjax.training.steps._steps import GRADIENT, Step, make_train_step

Views = Mapping[str, Callable[[Array, Any], Any]]
Inputs = str | tuple[str, ...] | Mapping[str, Any]


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
    method: that it trains.
    start: `init`, for a method with stages before it also without them;
      `hand_over` calls it.
    stages: the learners of the stages before, by name, in their order.
      `hand_over` goes on from one to the next; `fit` does it.
    mapped: "" for one student on one device; `"sweep"` or `"parallel"` for a
      learner whose functions are mapped already.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> from kdjax import training
    >>> from kdjax.distillation import kd_loss
    >>> teacher = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    >>> learner = training.learner(
    ...   kd_loss,
    ...   {"student": student, "teacher": teacher},
    ...   optax.adam(1e-3),
    ...   temperature=4.0,
    ...   on="x",
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
  method: methods.Method
  start: Callable[..., TrainState]
  stages: Mapping[str, "Learner"] = types.MappingProxyType({})
  mapped: str = ""

  def __repr__(self) -> str:
    names = ", ".join([*self.modules, *(f"{k} (frozen)" for k in self.frozen)])
    return f"Learner({self.method.name} of {names})"


def learner(
  method: methods.Method | methods.Objective | Callable[..., Any],
  networks: Any,
  optimizer: Optimizer,
  *,
  on: Inputs = "image",
  views: Views | None = None,
  augment: Callable[[Array, Any], Any] | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  **hyperparameters: Any,
) -> Learner:
  """Learner of any method: the one door from a method to training.

  `distill`, `adapt`, `generalize`, `finetune`, `continue_on`, `collaborate`,
  `guide` and `align` are names for a form of batch and hand on to it.

  Args:
    method: a `methods.Method`, such as `methods.create("mldg")`; or a loss
      function whose argument names say what it reads, such as
      `mine(student_logits, teacher_logits, labels)`.
    networks: the student, or role -> network. A network is an NNX module, a
      `Model` (that of a Linen module is `from_linen(module, variables)`) or a
      `Network`; a frozen one may be a `CachedTeacher`.
    optimizer: an Optax optimizer, which may take extra arguments.
    on: the entry of the batch that the networks see; a tuple of entries for
      networks of several inputs, which get their dictionary; or network ->
      entry, where they differ.
    views: name -> `(key, batch) -> inputs`, the other views of the examples
      that the method reads. The batch is the part whose examples they are.
    augment: `(key, inputs) -> inputs`; all networks see the same view.
    metrics: name -> function of arrays, for evaluation. By default those of the
      form of batch: accuracy and cross-entropy; with a teacher also
      `agreement`, `kl`, `teacher_accuracy` and `teacher_entropy`; of peers the
      accuracy of each, of their ensemble, and their disagreement; of towers the
      share of examples that find their pair.
    axis_name: the mapped axis that holds the rest of the batch, where the
      caller maps the step; `parallelize` names it itself.
    **hyperparameters: of the loss or of the method; numbers are in the state,
      as arrays. One that stands in two parts is named by part:
      `**{"kd/temperature": 4.0}`.

  Returns:
    A `Learner`.

  Raises:
    TypeError: if a network is none, or the optimizer not one of Optax.
    ValueError: if the method lacks a network or a view, or has no such
      hyper-parameter; from `init`, if a stage before it is missing; from `init`
      or `step`, if the batch lacks an entry that is read.

  Examples:
    >>> import optax
    >>> from flax import nnx
    >>> student = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> fish = methods.create("fish")
    >>> learner(fish, student, optax.adam(1e-3), on="x")
    Learner(fish of student)

  References:
    `BlackJAX <https://github.com/blackjax-devs/blackjax>`_, whose `init` and
    `step` are all that a loop needs.
  """
  if not isinstance(networks, Mapping):
    networks = {"student": networks}
  return open_door(
    "learner",
    "",
    method,
    networks,
    optimizer,
    on=on,
    views=views,
    augment=augment,
    metrics=metrics,
    axis_name=axis_name,
    **hyperparameters,
  )


def open_door(
  door: str,
  area: str,
  method: Any,
  networks: Mapping[str, Any],
  optimizer: Optimizer,
  *,
  on: Inputs = "image",
  views: Views | None = None,
  augment: Callable[[Array, Any], Any] | None = None,
  metrics: Mapping[str, Metric] | None = None,
  axis_name: str | None = None,
  domains: tuple[str, ...] = (),
  **hyperparameters: Any,
) -> Learner:
  """Makes a learner for a door, whose name errors say."""
  views = {} if views is None else views
  check_views(door, views)
  method, hyperparameters = _as_method(
    door, area, method, networks, views, domains, hyperparameters
  )
  objective = method.objective or methods.NO_LOSS
  method = method._replace(objective=objective)
  entry = on if not isinstance(on, Mapping) else on.get("student", "image")
  own = {} if not isinstance(on, Mapping) else on
  bound = {
    role: methods.bound_inputs({role: row}, own.get(row.network, entry))[role]
    for role, row in method.passes.items()
  }
  method = method._replace(passes=bound)
  trained = [name for name in method.trained if name in networks]
  _check_networks(door, method, networks, views)
  if "teacher" in networks:
    method = _without_source(method)
  made: dict[str, Network] = {}
  for name in trained:
    network = networks[name]
    if name == "student" and method.network is not None:
      network = method.network(network)
    made[name] = as_network(f"{door}: networks[{name!r}]", network)
  forwards: dict[str, Any] = {k: v.forward for k, v in made.items()}
  changed = augment is not None or bool(views)
  own_forwards, fixed = _frozen_of(door, networks, made, changed)
  forwards |= own_forwards
  handed = [x for x in method.needs.networks if x not in networks]
  for name in handed:  # The stage before leaves them, of the student's form.
    forwards[name] = forwards["student"]
  prepare = method.prepare
  if prepare is not None and _takes(prepare, "on"):
    prepare = functools.partial(prepare, on=entry)
  if method.data is not None and _takes(method.data, "on"):
    method = method._replace(data=functools.partial(method.data, on=entry))
  seen = views_of(bound, views, augment, entry, method.needs.views)
  if prepare is not None and _takes(prepare, "augment"):
    # It adds parts, whose inputs are augmented too.
    prepare = functools.partial(prepare, augment=seen)
  else:
    prepare = in_turn(seen, prepare)
  try:
    loss_fn = pass_loss(forwards, bound, objective, prepare=prepare)
    evaluation, default = measures_of(method, networks, entry, own)
    looked = pass_loss(forwards, evaluation, objective)
  except (TypeError, ValueError) as error:
    raise type(error)(f"{door}: {error}") from None
  transformation = optimizer
  if method.optimizer is not None:
    transformation = method.optimizer(optimizer)
  transformation = as_optimizer(door, transformation)
  update = GRADIENT if method.update is None else method.update

  def init(key: Array, batch: Any, **values: Any) -> TrainState:
    if method.before:
      first = next(iter(method.before))
      raise ValueError(
        f"{door}: {method.name} starts after the stage {first!r}; expected "
        "training.fit, which trains it, or hand_over(learner, state) with the "
        f"state that learner.stages[{first!r}] left. A student that was "
        "trained already takes methods.create(...)._replace(before={})."
      )
    return start(key, batch, **values)

  def start(key: Array, batch: Any, **values: Any) -> TrainState:
    variables = {
      name: network.init(jax.random.fold_in(key, i) if i else key)
      for i, (name, network) in enumerate(made.items())
    }
    params = {k: v.params for k, v in variables.items()}
    state = {k: v.state for k, v in variables.items()}
    known = dict(fixed) | {name: variables["student"] for name in handed}
    if "student" in variables:
      known.setdefault("average", variables["student"])
    # Keys of its own: a network may have parts of the same names and shapes.
    own_key = jax.random.fold_in(key, len(made))
    specs = _specs_of(loss_fn, method, params, state, known, batch, own_key)
    parts = objective.init(own_key, specs)
    params, state = jax.tree.map(
      jnp.copy,
      (params | {"objective": parts[0]}, state | {"objective": parts[1]}),
    )
    begun = TrainState(
      jnp.zeros((), jnp.int32),
      params,
      state,
      update.init(params, transformation),
    )
    return with_hyperparameters(door, begun, {**hyperparameters, **values})

  stages = {
    name: open_door(
      door,
      area,
      _of_networks(stage, networks),
      {
        k: v
        for k, v in networks.items()
        if k == "student" or k in stage.needs.networks
      },
      optimizer,
      on=on,
      augment=augment,
      views={k: v for k, v in views.items() if k in stage.needs.views},
      axis_name=axis_name,
    )
    for name, stage in method.before.items()
  }
  return Learner(
    init,
    make_train_step(
      loss_fn, transformation, axis_name=axis_name, update=update
    ),
    make_eval_step(
      looked, default if metrics is None else metrics, axis_name=axis_name
    ),
    fixed,
    loss_fn,
    {name: networks[name] for name in made},
    method,
    start,
    stages,
  )


def _as_method(
  door: str,
  area: str,
  method: Any,
  networks: Mapping[str, Any],
  views: Views,
  domains: tuple[str, ...],
  hyperparameters: dict[str, Any],
) -> tuple[methods.Method, dict[str, Any]]:
  """The method, also of a loss function, and the hyper-parameters left."""
  if not isinstance(method, methods.Method):
    if not callable(method) and not isinstance(method, methods.Objective):
      raise TypeError(
        f"{door}: method is a {type(method).__name__}; expected a Method, as "
        "methods.create returns, or a loss function."
      )
    try:
      method = methods.from_loss(
        method,
        networks,
        area=area,
        views=views,
        domains=domains,
        **hyperparameters,
      )
    except (TypeError, ValueError) as error:
      text = str(error).removeprefix("stateless: ")
      raise type(error)(f"{door}: {text}") from None
    return method, {}
  return method, hyperparameters


def _frozen_of(
  door: str, networks: Mapping[str, Any], made: Mapping[str, Any], changed: bool
) -> tuple[dict[str, Any], dict[str, Variables]]:
  """The forwards and the variables of the networks that are not trained."""
  forwards: dict[str, Any] = {}
  fixed = {}
  for name, value in networks.items():
    if name in made:
      continue
    if isinstance(value, CachedTeacher):
      if changed:
        raise ValueError(
          f"{door}: augment or views is given, but a CachedTeacher saw no such "
          "view; expected neither. Augment the batch beforehand by "
          "kdjax.data.augment_examples, as the cache was."
        )
      forwards[name] = value
      continue
    network = as_network(f"{door}: networks[{name!r}]", value)
    forwards[name] = network.forward
    # A network without weights would be initialized by this key.
    fixed[name] = network.init(jax.random.key(0))
  return forwards, fixed


def _specs_of(
  loss_fn: LossFn,
  method: methods.Method,
  params: Any,
  state: Any,
  known: Any,
  batch: Any,
  key: Array,
) -> Any:
  """The shapes of the outputs of all passes.

  A method whose `prepare` reads the state also gets those of the batch, as
  `"batch"`.
  """
  # Only shapes: an axis that this is mapped over does not matter.
  run = functools.partial(loss_fn.run, axis_name=None)
  if method.prepare is None or not _takes(method.prepare, "state"):
    return jax.eval_shape(run, params, state, known, batch, key)[0]
  # What a memory holds has the shapes of the batch and of the student's own
  # outputs on it.
  plain = {
    k: v for k, v in loss_fn.passes.items() if k in ("student", "source")
  }
  first = pass_loss(loss_fn.forwards, plain, loss_fn.objective)
  look = functools.partial(first.run, axis_name=None)
  specs, _, whole = jax.eval_shape(look, params, state, known, batch, key)
  seen = {"batch": whole}
  _, memory = jax.eval_shape(loss_fn.objective.init, key, {**specs, **seen})
  state = state | {"objective": memory}
  specs, _, _ = jax.eval_shape(run, params, state, known, batch, key)
  return {**specs, **seen}


def _check_networks(
  door: str, method: methods.Method, networks: Mapping[str, Any], views: Views
) -> None:
  """Raises ValueError for a network or a view that the method lacks."""
  trained = set(method.trained)
  wanted = [*method.trained, *method.needs.networks]
  left = {"average"}
  if method.before:
    left.add("teacher")  # The student of the stage before is the teacher.
  for name in dict.fromkeys(wanted):
    if name not in networks and name not in left:
      given = ", ".join(networks)
      role = f"the network {name!r}"
      if name not in trained:
        role += ", which is frozen"
      raise ValueError(
        f"{door}: {method.name} needs {role}; got {given}. Expected networks="
        f"{{'student': ..., {name!r}: ...}}."
      )
  for name in method.needs.views:
    if name not in views:
      raise ValueError(
        f"{door}: {method.name} reads the view {name!r} of the examples; "
        f"expected views={{{name!r}: (key, batch) -> inputs}}."
      )


def _without_source(method: methods.Method) -> methods.Method:
  """The method without the stage that trains the teacher, which is given."""
  if "teacher" not in method.needs.networks:
    return method
  before = {k: v for k, v in method.before.items() if k != "source"}
  return method._replace(before=before)


def _of_networks(
  stage: methods.Method, networks: Mapping[str, Any]
) -> methods.Method:
  """A stage without the passes of networks that are not given."""
  passes = {k: v for k, v in stage.passes.items() if v.network in networks}
  return stage._replace(passes=passes)


def _takes(function: Callable[..., Any], name: str) -> bool:
  return name in inspect.signature(function).parameters
