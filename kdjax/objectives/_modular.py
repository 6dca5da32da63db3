"""Objectives whose learnable parts are Flax NNX modules."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.objectives._objective import Metrics
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import as_hyperparameters
from kdjax.objectives._objective import batch_mean
from kdjax.objectives._objective import loss_metric
from kdjax.objectives._objective import widen
from kdjax.ops import get_entry


def modular(
  build: Callable[..., nnx.Module],
  loss: Callable[..., Any],
  *,
  predict: Callable[..., Array] | None = None,
  axis_name: str | None = None,
  **hyperparameters: ArrayLike,
) -> Objective:
  """Objective with learnable parts, which size themselves from the shapes.

  The parts are one NNX module. Its `nnx.Param` are the objective's parameters;
  all its other variables (batch statistics, memory banks, a frozen
  normaliser) are its state, under `"module"`, beside the hyper-parameters.
  The module is in training mode; features in half precision reach it in
  float32, and under `jax_enable_x64` its float32 variables are float64. Like a
  network's own, its batch statistics see padded rows too, which repeat real
  examples.

  Args:
    build: `(student, teacher, rngs) -> nnx.Module`, where student and teacher
      are `Outputs` whose leaves have shapes and dtypes (never values).
    loss: `loss(module, student, teacher, batch, **hyperparameters)` returns
      one value an example, `[batch]`, or a scalar that is already the loss of
      the whole batch on every device. If it has a parameter `key`, it is given
      a random key. It may change the module's variables other than its
      parameters.
    predict: `predict(module, student, teacher) -> logits`, with the module in
      evaluation mode: what the trained student answers if not its own logits.
    axis_name: the mapped axis that holds the rest of the batch, for the mean
      over examples and the mean of the state over devices. A module with batch
      statistics needs it too, from `build`.
    **hyperparameters: numbers, which live in the state as arrays.

  Returns:
    An objective with the metric `"loss"`; its state is `{"module": ...,
    "hyperparameters": {...}}`.

  Raises:
    TypeError: from `init`, if a hyper-parameter is no number.
    ValueError: from `apply`, if the loss is neither a scalar nor one value an
      example.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> def build(student, teacher, rngs):
    ...   width = student.embedding.shape[-1], teacher.embedding.shape[-1]
    ...   return nnx.Linear(*width, rngs=rngs)
    >>> def loss(projector, student, teacher, batch, *, power):
    ...   gap = projector(student.embedding) - teacher.embedding
    ...   return jnp.mean(jnp.abs(gap) ** power, -1)
    >>> objective = modular(build, loss, power=2.0)
    >>> student = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> teacher = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 16)))
    >>> params, state = objective.init(jax.random.key(0), student, teacher)
    >>> params["kernel"].shape, state["hyperparameters"]
    ((8, 16), {'power': Array(2., dtype=float32)})

  References:
    `The functional API of NNX
    <https://flax.readthedocs.io/en/latest/guides/nnx_basics.html>`_.
  """
  draws = "key" in inspect.signature(loss).parameters

  def split(module: nnx.Module) -> tuple[Any, Any]:
    _, params, state = nnx.split(module, nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

  def init(key: Array, student: Any, teacher: Any) -> tuple[Any, Any]:
    specs = _specs((student, teacher))
    variables = split(build(*specs, nnx.Rngs(key)))
    params, state = jax.tree.map(_default_float, variables)
    hyper = as_hyperparameters(hyperparameters)
    return params, {"module": state, "hyperparameters": hyper}

  def merge(params: Any, state: Any, student: Any, teacher: Any) -> nnx.Module:
    specs = _specs((student, teacher))
    skeleton = nnx.eval_shape(lambda: build(*specs, nnx.Rngs(0)))
    graph, _, _ = nnx.split(skeleton, nnx.Param, ...)
    return nnx.merge(graph, params, state["module"], copy=True)

  def apply(
    params: Any, state: Any, student: Any, teacher: Any, batch: Any, key: Array
  ) -> tuple[Array, Any, Metrics]:
    name = getattr(loss, "func", loss)
    name = getattr(name, "__qualname__", repr(loss)).partition(".")[0]
    get_entry(f"{name}: batch", batch, "mask")
    module = merge(params, state, student, teacher)
    module.train()
    value = loss(
      module,
      jax.tree.map(widen, student),
      jax.tree.map(widen, teacher),
      batch,
      **({"key": key} if draws else {}),
      **state["hyperparameters"],
    )
    if jnp.ndim(value):
      value = batch_mean(value, batch, axis_name, loss)
    _, moved = split(module)
    if axis_name is not None:
      # Batch statistics are the same on all devices: this tells JAX so.
      moved = jax.tree.map(lambda x: _replicate(x, axis_name), moved)
    return value, state | {"module": moved}, loss_metric(value, batch)

  def predicted(params: Any, state: Any, student: Any, teacher: Any) -> Array:
    assert predict is not None
    module = merge(params, state, student, teacher)
    module.eval()
    return predict(
      module, jax.tree.map(widen, student), jax.tree.map(widen, teacher)
    )

  return Objective(init, apply, predicted if predict else None)


def _specs(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _default_float(x: Array) -> Array:
  """Float32, which Flax takes, becomes what JAX takes: float64 under x64."""
  return x.astype(float) if x.dtype == jnp.float32 else x


def _replicate(x: Array, axis_name: str) -> Array:
  """Averages what is alike everywhere; the average of integers is no mean."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    return jax.lax.pmean(x, axis_name)
  return jax.lax.pmax(x, axis_name)
