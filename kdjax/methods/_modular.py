"""Objectives whose learnable parts are Flax NNX modules."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import nets, ops
from kdjax.methods._binding import (
  Roles,
  arguments_of,
  learning_role,
  name_of,
  parameter_names,
  part_of,
)
from kdjax.methods._objective import (
  Apply,
  Metrics,
  Objective,
  as_hyperparameters,
  batch_mean,
  loss_metric,
  widen,
)


def modular(
  build: Callable[..., nnx.Module],
  loss: Callable[..., Any] | Mapping[str, Callable[..., Any]],
  *,
  predict: Callable[..., Array] | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Objective with learnable parts, which size themselves from the shapes.

  The parts are one NNX module. Its `nnx.Param` are the objective's parameters;
  all its other variables (batch statistics, memory banks, a frozen
  normalizer) are its state, under `"module"`, beside the hyper-parameters.
  The module is in training mode; features in half precision reach it in
  float32, and under `jax_enable_x64` its float32 variables are float64. Like a
  network's own, its batch statistics see padded rows too, which repeat real
  examples, and are those of the whole batch over all devices.

  The functions' positional parameters are bound by their names: a role
  (`student`, `teacher`, `source`, `target_strong`) is its `Outputs`,
  `student_logits` a field of one, `labels` an entry of the batch; `batch` is
  the whole batch and `outputs` the mapping of all roles.

  Args:
    build: returns an `nnx.Module`; beside roles, whose leaves have shapes and
      dtypes but no values, it may take `rngs`, and `params`, its own
      parameters, which are None at first.
    loss: `loss(module, student, teacher, ..., **hyperparameters)`, or name ->
      such a function, the parts of an update that alternates. It returns one
      value an example, `[batch]`, or a scalar that is already the loss of the
      whole batch on every device. If it has a parameter `key`, it gets a random
      key; if it has `axis_name`, the mapped axis that holds the rest of the
      batch. It may change the module's variables other than its parameters.
    predict: `predict(module, student, ...) -> logits`, with the module in
      evaluation mode: the answer of the trained student, if not its own.
    **hyperparameters: numbers, which live in the state as arrays.

  Returns:
    An objective with the metric `"loss"`; its state is `{"module": ...,
    "hyperparameters": {...}}`.

  Raises:
    TypeError: from `init`, if a hyper-parameter is no number.
    ValueError: from `init` or `apply`, if a parameter's name stands for
      nothing; from `apply`, if the loss is neither a scalar nor one value an
      example.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> def build(student, teacher, rngs):
    ...   width = student.embedding.shape[-1], teacher.embedding.shape[-1]
    ...   return nnx.Linear(*width, rngs=rngs)
    >>> def loss(projector, student_embedding, teacher_embedding, *, power):
    ...   gap = projector(student_embedding) - teacher_embedding
    ...   return jnp.mean(jnp.abs(gap) ** power, -1)
    >>> objective = modular(build, loss, power=2.0)
    >>> outputs = {
    ...   "student": Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8))),
    ...   "teacher": Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 16))),
    ... }
    >>> params, state = objective.init(jax.random.key(0), outputs)
    >>> params["kernel"].shape, state["hyperparameters"]
    ((8, 16), {'power': Array(2., dtype=float32)})

  References:
    `The functional API of NNX
    <https://flax.readthedocs.io/en/latest/guides/nnx_basics.html>`_.
  """

  def make(outputs: Roles, rngs: nnx.Rngs, params: Any = None) -> nnx.Module:
    specs = _specs(dict(outputs))
    known = {"rngs": rngs, "params": params}
    return build(*arguments_of(build, specs, {}, known=known))

  def split(module: nnx.Module) -> tuple[Any, Any]:
    _, params, state = nnx.split(module, nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    variables = split(make(specs, nnx.Rngs(key)))
    params, state = jax.tree.map(_default_float, variables)
    hyper = as_hyperparameters(hyperparameters)
    return params, {"module": state, "hyperparameters": hyper}

  def merge(params: Any, state: Any, outputs: Roles) -> nnx.Module:
    skeleton = nnx.eval_shape(lambda: make(outputs, nnx.Rngs(0), params))
    graph, _, _ = nnx.split(skeleton, nnx.Param, ...)
    return nnx.merge(graph, params, state["module"], copy=True)

  def call(
    function: Any,
    module: Any,
    outputs: Roles,
    batch: Any,
    known: Mapping[str, Any],
    options: Mapping[str, Any],
  ) -> Any:
    wide = jax.tree.map(widen, dict(outputs))
    arguments = arguments_of(function, wide, batch, skip=1, known=known)
    return function(module, *arguments, **options)

  losses = loss if isinstance(loss, Mapping) else {"": loss}

  def apply_of(loss: Callable[..., Any]) -> Apply:
    parameters = inspect.signature(loss).parameters
    takes = parameters if len(losses) > 1 else hyperparameters

    def apply(
      params: Any,
      state: Any,
      outputs: Roles,
      batch: Any,
      key: Array,
      *,
      axis_name: str | None = None,
    ) -> tuple[Array, Any, Metrics]:
      part = part_of(batch, learning_role(outputs))
      ops.get_entry(f"{name_of(loss)}: batch", part, "mask")
      module = merge(params, state, outputs)
      module.train()
      if axis_name is not None:
        nets.set_batch_axis(module, axis_name)
      given = {"key": key, "axis_name": axis_name}
      positional = parameter_names(loss)
      keywords = [k for k in given if k in parameters and k not in positional]
      hyper = {k: v for k, v in state["hyperparameters"].items() if k in takes}
      options = {k: given[k] for k in keywords} | hyper
      value = call(loss, module, outputs, batch, given, options)
      axes = jnp.ndim(value) or None
      if axes:
        value = batch_mean(value, part, axis_name, loss)
      _, moved = split(module)
      if axis_name is not None:
        # Batch statistics are the same on all devices: this tells JAX so.
        moved = ops.replicate_over_devices(moved, axis_name)
      return value, state | {"module": moved}, loss_metric(value, part, axes)

    return apply

  def apply_all(
    params: Any,
    state: Any,
    outputs: Roles,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    total, metrics = jnp.zeros(()), {}
    for name, part in parts.items():
      value, state, seen = part(
        params, state, outputs, batch, key, axis_name=axis_name
      )
      total += value
      metrics = seen | metrics | {f"{name}/{k}": v for k, v in seen.items()}
    count = metrics["loss"][1]
    return total, state, metrics | {"loss": (total * count, count)}

  parts = {name: apply_of(function) for name, function in losses.items()}
  apply = apply_all if len(parts) > 1 else next(iter(parts.values()))

  def predicted(params: Any, state: Any, outputs: Roles) -> Array:
    module = merge(params, state, outputs)
    module.eval()
    return call(predict, module, outputs, {}, {}, {})

  return Objective(
    init,
    apply,
    predicted if predict else None,
    None,
    parts if isinstance(loss, Mapping) else {},
  )


def _specs(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _default_float(x: Array) -> Array:
  """Float32, the default of Flax, becomes JAX's: float64 under x64."""
  return x.astype(float) if x.dtype == jnp.float32 else x
