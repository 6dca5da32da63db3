"""Train and evaluation steps: pure functions that the caller compiles.

One step gives the same numbers under `jax.jit`, `jax.pmap` and
`jax.shard_map`. Each part answers for what it returns: an objective reduces
its loss over devices, :func:`distillation_loss` averages batch statistics, and
:func:`make_train_step` gradients and metrics.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from kdjax.nets import Outputs
from kdjax.objectives import Objective
from kdjax.objectives._objective import batch_mean
from kdjax.ops._validation import entry
from kdjax.training._checks import check_loss
from kdjax.training._checks import check_objective
from kdjax.training._checks import check_optimizer
from kdjax.training._checks import check_pairs
from kdjax.training._checks import check_views
from kdjax.training._checks import reading_teacher
from kdjax.training._models import Forward
from kdjax.training._models import Model
from kdjax.training._models import Variables
from kdjax.training._models import check_forward
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
    TypeError: if student or teacher is no model, the objective no objective or
      the optimizer no optimizer.
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
    objective_params, objective_state = objective.init(
      key, student_spec, teacher_spec
    )
  copy = jax.tree.map(jnp.copy, student.variables)
  params = {"student": copy.params, "objective": objective_params}
  state = {"student": copy.state, "objective": objective_state}
  return TrainState(
    jnp.zeros((), jnp.int32), params, state, optimizer.init(params)
  )


def distillation_loss(
  student: Forward,
  objective: Objective,
  teacher: Forward | CachedTeacher | None = None,
  *,
  augment: Callable[[Array, Any], Any] | None = None,
  views: Mapping[str, Callable[[Array, Any], Any]] = types.MappingProxyType({}),
  axis_name: str | None = None,
) -> LossFn:
  """Distillation loss, or supervised loss where there is no teacher.

  Args:
    student: the student's forward, called in training mode.
    objective: compares its outputs with the teacher's and the labels.
    teacher: the teacher's forward, called in evaluation mode with the
      variables `frozen["teacher"]`; or a :class:`CachedTeacher`, whose outputs
      come with the batch. Without it the objective gets None.
    augment: `(key, images) -> images`; student and teacher see the same view.
    views: name -> `(key, batch) -> images`, other views of each example, for
      objectives that compare several. Their outputs are in the `views` of the
      student's and the teacher's outputs. The key is that of `augment`, and
      batch statistics follow from one view to the next.
    axis_name: the mapped axis that holds the rest of the batch. Batch
      statistics are averaged over it, and augmentation and dropout draw
      differently on each device.

  Returns:
    `loss_fn(params, state, frozen, batch, key) -> loss, (state, metrics)`,
    where `batch` has `"image"`, `"mask"` and what the objective reads.

  Raises:
    TypeError: if student or teacher is no forward (a :class:`Model` is none),
      the objective is none, or `views` is no mapping.
    ValueError: if a cached teacher is to see augmented or other views; from
      `loss_fn`, if the batch lacks an entry that is read, `frozen` the teacher,
      or the objective reads a teacher and there is none.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> from kdjax.objectives import stateless
    >>> def forward(variables, x, *, train, key):
    ...   return Outputs(variables.params * x, {}, None), {}
    >>> objective = stateless(lambda student, teacher: (student - teacher) ** 2)
    >>> loss_fn = distillation_loss(forward, objective, forward)
    >>> params = {"student": jnp.array(1.0), "objective": {}}
    >>> state = {"student": {}, "objective": {}}
    >>> frozen = {"teacher": Variables(jnp.array(3.0), {})}
    >>> images = jnp.array([1.0, 2.0])
    >>> batch = {"image": images, "mask": jnp.array([True, True])}
    >>> loss, _ = loss_fn(params, state, frozen, batch, jax.random.key(0))
    >>> loss
    Array(10., dtype=float32)

  References:
    Beyer et al., `Knowledge distillation: a good teacher is patient and
    consistent <https://arxiv.org/abs/2106.05237>`_, 2021: one view for both.
  """
  name = "distillation_loss"
  _check_parts(name, student, teacher)
  check_objective(name, objective)
  check_views(name, views)
  if isinstance(teacher, CachedTeacher) and (augment is not None or views):
    raise ValueError(
      "distillation_loss: augment or views is given, but a CachedTeacher saw "
      "no such view; expected neither. Augment the batch beforehand by "
      "kdjax.data.augment_examples, as the cache was."
    )

  def loss_fn(
    params: Any, state: Any, frozen: Any, batch: Any, key: Array
  ) -> tuple[Array, tuple[Any, Metrics]]:
    objective_key, key = jax.random.split(key)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    augment_key, student_key = jax.random.split(key)
    images = entry(f"{name}: batch", batch, "image")
    if augment is not None:
      images = augment(augment_key, images)
    others = {k: view(augment_key, batch) for k, view in views.items()}

    def learn(images: Any, key: Array, state: Any) -> tuple[Outputs, Any]:
      variables = Variables(params["student"], state)
      return run_forward(
        f"{name}: student", student, variables, images, train=True, key=key
      )

    outputs, student_state = learn(images, student_key, state["student"])
    seen = {}
    for i, (k, view) in enumerate(others.items()):
      view_key = jax.random.fold_in(student_key, i)
      seen[k], student_state = learn(view, view_key, student_state)
    if seen:
      outputs = outputs._replace(views=seen)
    if axis_name is not None:
      student_state = jax.lax.pmean(student_state, axis_name)
    targets = None
    if teacher is not None:

      def teach(images: Any) -> Outputs:
        outputs = _answer(name, teacher, frozen, batch, images)
        return jax.lax.stop_gradient(outputs)

      targets = teach(images)
      if others:
        targets = targets._replace(
          views={k: teach(view) for k, view in others.items()}
        )
    with reading_teacher(name, teacher):
      loss, objective_state, metrics = objective.apply(
        params["objective"],
        state["objective"],
        outputs,
        targets,
        batch,
        objective_key,
      )
    state = {"student": student_state, "objective": objective_state}
    return loss, (state, metrics)

  return loss_fn


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
    TypeError: if the loss has other parameters, as a step has, or the optimizer
      is none.
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
    return _over(jax.lax.pmean, loss, axis_name), aux

  def step(
    state: TrainState, frozen: Any, batch: Any, key: Array
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(key, state.step)
    (_, (moved, metrics)), gradients = jax.value_and_grad(
      reduced_loss_fn, has_aux=True
    )(state.params, state.state, frozen, batch, key)
    gradients = _over(jax.lax.pmean, gradients, axis_name)
    updates, optimizer_state = optimizer.update(
      gradients, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, moved, optimizer_state)
    return state, _over(jax.lax.psum, metrics, axis_name)

  return step


def make_eval_step(
  student: Forward,
  metrics: Mapping[str, tuple[Callable[..., Array], Callable[..., Any]]],
  teacher: Forward | CachedTeacher | None = None,
  *,
  axis_name: str | None = None,
) -> Callable[[Variables, Any, Any], Metrics]:
  """Evaluation step: metrics of one batch, as pairs (sum, count).

  Args:
    student: the forward of the network to evaluate.
    metrics: name -> (function, selector), with the selectors of
      :mod:`kdjax.objectives`; `function(*selector(student, teacher, batch))`
      returns one value an example.
    teacher: the teacher's forward, with the variables `frozen["teacher"]`, or
      a :class:`CachedTeacher`; for metrics that compare.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `evaluate(variables, frozen, batch) -> {name: (sum, count)}`.

  Raises:
    TypeError: if student or teacher is no forward (a :class:`Model` is none),
      or `metrics` no mapping to pairs of functions.
    ValueError: from `evaluate`, if the batch lacks an entry that is read,
      `frozen` the teacher, or a metric is not one value an example.

  Examples:
    >>> from kdjax.metrics import accuracy
    >>> from kdjax.nets import Outputs
    >>> from kdjax.objectives import select_supervised
    >>> def forward(variables, x, *, train, key):
    ...   return Outputs(x @ variables.params, {}, None), {}
    >>> metrics = {"accuracy": (accuracy, select_supervised)}
    >>> evaluate = jax.jit(make_eval_step(forward, metrics))
    >>> batch = {
    ...   "image": jnp.eye(3),
    ...   "label": jnp.array([0, 1, 0]),
    ...   "mask": jnp.array([True, True, False]),
    ... }
    >>> evaluate(Variables(jnp.eye(3), {}), {}, batch)["accuracy"]
    (Array(2., dtype=float32), Array(2., dtype=float32))

  References:
    The (sum, normalizer) metrics of `Scenic
    <https://github.com/google-research/scenic>`_.
  """
  name = "make_eval_step"
  _check_parts(name, student, teacher)
  check_pairs(name, metrics, "(function, selector)")

  def evaluate(variables: Variables, frozen: Any, batch: Any) -> Metrics:
    images, mask = (
      entry(f"{name}: batch", batch, k) for k in ("image", "mask")
    )
    outputs, _ = run_forward(f"{name}: student", student, variables, images)
    targets = None
    if teacher is not None:
      targets = _answer(name, teacher, frozen, batch, images)
    count = jnp.sum(mask, dtype=jnp.float32)

    def total(function: Any, select: Any) -> Array:
      with reading_teacher(name, teacher):
        arguments = select(outputs, targets, batch)
      values = jnp.asarray(function(*arguments), jnp.float32)
      return batch_mean(values, batch, None, function) * count

    pairs = {metric: (total(*pair), count) for metric, pair in metrics.items()}
    return _over(jax.lax.psum, pairs, axis_name)

  return evaluate


def mean_metrics(
  metrics: Metrics, *, axis: int | None = None
) -> dict[str, Array]:
  """Means of metrics that are pairs (sum, count).

  Args:
    metrics: name -> (sum, count), arrays of any one shape.
    axis: an axis to sum over first, such as that of an epoch's steps.

  Returns:
    name -> sum / count; 0 where nothing was counted.

  Raises:
    TypeError: if `metrics` is no mapping to pairs.

  Examples:
    >>> metrics = {"loss": (jnp.array([1.0, 5.0]), jnp.array([1, 2]))}
    >>> mean_metrics(metrics, axis=0)
    {'loss': Array(2., dtype=float32)}

  References:
    The (sum, normalizer) metrics of `Scenic
    <https://github.com/google-research/scenic>`_.
  """
  check_pairs("mean_metrics", metrics, "(sum, count)")
  if axis is not None:
    metrics = jax.tree.map(lambda x: jnp.sum(x, axis), metrics)
  return {
    k: total / jnp.maximum(count, 1) for k, (total, count) in metrics.items()
  }


def _check_parts(name: str, student: Any, teacher: Any) -> None:
  check_forward(f"{name}: student", student)
  if teacher is not None and not isinstance(teacher, CachedTeacher):
    check_forward(f"{name}: teacher", teacher)


def _answer(
  name: str,
  teacher: Forward | CachedTeacher,
  frozen: Any,
  batch: Any,
  images: Any,
) -> Outputs:
  """What the teacher says of these images, now or when it was cached."""
  if isinstance(teacher, CachedTeacher):
    return teacher(batch)
  variables = entry(f"{name}: frozen", frozen, "teacher")
  return run_forward(f"{name}: teacher", teacher, variables, images)[0]


def _over(
  collective: Callable[..., Any], tree: Any, axis_name: str | None
) -> Any:
  return tree if axis_name is None else collective(tree, axis_name)
