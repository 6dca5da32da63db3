"""Train steps: pure functions that the caller compiles.

One step gives the same numbers under `jax.jit`, `jax.pmap` and
`jax.shard_map`. Each part answers for what it returns: an objective reduces
its loss over devices, :func:`~kdjax.training.distillation_loss` averages batch
statistics, and :func:`make_train_step` gradients and metrics.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from kdjax.objectives import Objective
from kdjax.ops import mean_over_devices
from kdjax.ops import sum_over_devices
from kdjax.training._checks import check_loss
from kdjax.training._checks import check_objective
from kdjax.training._checks import check_optimizer
from kdjax.training._checks import reading_teacher
from kdjax.training._models import Model
from kdjax.training._models import Variables
from kdjax.training._models import check_model
from kdjax.training._models import run_forward
from kdjax.training._teachers import CachedTeacher

Metrics = dict[str, tuple[Array, Array]]
LossFn = Callable[
  [Any, Any, Any, Any, Array], tuple[Array, tuple[Any, Metrics]]
]
Step = Callable[[Any, Any, Any, Array], tuple[Any, Metrics]]


class TrainState(NamedTuple):
  """Train state: everything that a step changes, in one pytree.

  Attributes:
    step: how many steps were taken, int32.
    params: `{"student": ..., "objective": ...}`, what the optimizer changes.
    state: `{"student": ..., "objective": ...}`, batch statistics,
      hyper-parameters, memory banks.
    optimizer_state: of the Optax optimizer.

  References:
    `flax.training.train_state
    <https://flax.readthedocs.io/en/latest/api_reference/flax.training.html>`_.
  """

  step: Int[Array, "*students"]
  params: Any
  state: Any
  optimizer_state: Any

  @property
  def student(self) -> Variables:
    """The student's variables."""
    return Variables(self.params["student"], self.state["student"])


def init_train_state(
  key: Array,
  student: Model,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  inputs: Any,
  *,
  teacher: Model | CachedTeacher | None = None,
) -> TrainState:
  """Initial train state.

  A sweep is `jax.vmap` of a function that ends here: give the objective and
  the optimizer (`optax.inject_hyperparams`) that function's arguments.

  Args:
    key: initialises the objective's parameters.
    student: the network to train. Its arrays are copied, so that a caller may
      donate the state.
    objective: what is minimised.
    optimizer: an Optax optimizer.
    inputs: a batch of inputs or its `jax.ShapeDtypeStruct`; only shapes count.
    teacher: the frozen network, or what is cached of it. It gives the
      objective its shapes and is not in the state.

  Returns:
    A :class:`TrainState` at step 0.

  Raises:
    TypeError: if student or teacher is no :class:`Model`, the objective no
      `Objective` or the optimizer not one of Optax.
    ValueError: if there is no teacher and the objective reads its outputs.

  Examples:
    >>> from flax import nnx
    >>> from kdjax.objectives import select_supervised, stateless
    >>> from kdjax.training import from_nnx
    >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    >>> objective = stateless(cross_entropy, select_supervised)
    >>> model = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> x = jnp.ones((4, 3))
    >>> state = init_train_state(
    ...   jax.random.key(0), model, objective, optax.sgd(0.1), x
    ... )
    >>> state.step
    Array(0, dtype=int32)

  References:
    `jax.eval_shape
    <https://docs.jax.dev/en/latest/_autosummary/jax.eval_shape.html>`_.
  """
  name = "init_train_state"
  check_objective(name, objective)
  check_optimizer(name, optimizer)

  def spec(role: str, model: Any) -> Any:
    check_model(f"{name}: {role}", model)
    return jax.eval_shape(
      lambda *args: run_forward(
        f"{name}: {role}.forward", model.forward, *args
      ),
      model.variables,
      inputs,
    )[0]

  if isinstance(teacher, CachedTeacher):
    teacher_spec = teacher.spec(inputs)
  else:
    teacher_spec = None if teacher is None else spec("teacher", teacher)
  student_spec = spec("student", student)
  with reading_teacher(name, teacher):
    parts = objective.init(key, student_spec, teacher_spec)
  # Each array on its own, so that the state may be donated.
  variables, parts = jax.tree.map(jnp.copy, (student.variables, parts))
  params = {"student": variables.params, "objective": parts[0]}
  state = {"student": variables.state, "objective": parts[1]}
  return TrainState(
    jnp.zeros((), jnp.int32), params, state, optimizer.init(params)
  )


def make_train_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  axis_name: str | None = None,
) -> Step:
  """Train step: one update of the student and of the objective's parameters.

  Args:
    loss_fn: `(params, state, frozen, batch, key) -> loss, (state, metrics)`,
      such as :func:`distillation_loss` builds. Over `axis_name` its loss is
      that of the whole batch, its state the same on every device, and its
      metrics are pairs (sum, count) of one device's examples.
    optimizer: an Optax optimizer.
    axis_name: the mapped axis that holds the rest of the batch, under
      `jax.pmap` and `jax.shard_map`; none under `jax.jit`, sharded or not.

  Returns:
    `step(state, frozen, batch, key) -> state, metrics`, a pure function. The
    key may be the same at every step: the step's number is folded in.

  Raises:
    TypeError: if `loss_fn` takes other arguments, as a step does, or the
      optimizer is not one of Optax.
    ValueError: from `step`, if the loss is no scalar.

  Examples:
    >>> def loss_fn(params, state, frozen, batch, key):
    ...   return (params - batch["target"]) ** 2, (state, {})
    >>> optimizer = optax.sgd(0.25)
    >>> step = jax.jit(make_train_step(loss_fn, optimizer))
    >>> params = jnp.array(0.0)
    >>> state = TrainState(jnp.array(0), params, {}, optimizer.init(params))
    >>> batch = {"target": jnp.array(2.0)}
    >>> state, metrics = step(state, {}, batch, jax.random.key(0))
    >>> state.params
    Array(1., dtype=float32)

  References:
    `The training cookbook of JAX
    <https://docs.jax.dev/en/latest/the-training-cookbook.html>`_.
  """
  name = "make_train_step"
  check_loss(name, loss_fn)
  check_optimizer(name, optimizer)

  def reduced_loss_fn(*args: Any) -> tuple[Array, tuple[Any, Metrics]]:
    loss, aux = loss_fn(*args)
    if jnp.shape(loss):
      raise ValueError(
        f"{name}: loss_fn returned a loss of shape {loss.shape}; expected a "
        "scalar. The two of a dot_objective are for make_dot_step."
      )
    # Averaging the loss inside and the gradients outside is right under vmap,
    # pmap and shard_map alike. Gradients alone are not: shard_map has already
    # summed those of replicated parameters.
    return mean_over_devices(loss, axis_name), aux

  def step(
    state: TrainState, frozen: Any, batch: Any, key: Array
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(key, state.step)
    (_, (moved, metrics)), gradients = jax.value_and_grad(
      reduced_loss_fn, has_aux=True
    )(state.params, state.state, frozen, batch, key)
    gradients = mean_over_devices(gradients, axis_name)
    updates, optimizer_state = optimizer.update(
      gradients, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, moved, optimizer_state)
    return state, sum_over_devices(metrics, axis_name)

  return step
