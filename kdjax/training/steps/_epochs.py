"""A whole epoch as one `lax.scan`, for data that fit on the device."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops
from kdjax.training.networks._models import takes_axis_name
from kdjax.training.steps._passes import Metrics

Epoch = Callable[..., tuple[Any, Metrics]]


def epoch_plan(
  num_examples: int, batch_size: int, *, key: Array | None = None
) -> dict[str, Array]:
  """Epoch plan: which examples each batch of one pass has.

  Every example counts once. The last batch is padded with examples from the
  start of the pass whose mask is False.

  Args:
    num_examples: how many examples there are.
    batch_size: how many a batch has.
    key: shuffles; without it the order is that of the data.

  Returns:
    `{"index": int32, "mask": bool}`, each `[steps, batch_size]`.

  Raises:
    TypeError: if one of the numbers is no integer.
    ValueError: if there is no example or a batch has none.

  Examples:
    >>> plan = epoch_plan(3, 2)
    >>> plan["index"].tolist(), plan["mask"].tolist()
    ([[0, 1], [2, 0]], [[True, True], [True, False]])

  References:
    Padding and masks instead of dropping, as in `big_vision
    <https://github.com/google-research/big_vision>`_.
  """
  for name, size in (
    ("num_examples", num_examples),
    ("batch_size", batch_size),
  ):
    ops.check_integer(f"epoch_plan: {name}", size, 1)
  shape = (-(-num_examples // batch_size), batch_size)
  order = jnp.arange(num_examples, dtype=jnp.int32)
  if key is not None:
    order = jax.random.permutation(key, order)
  mask = jnp.arange(shape[0] * shape[1]) < num_examples
  return {"index": jnp.resize(order, shape), "mask": mask.reshape(shape)}


def scan_epoch(step: Callable[..., tuple[Any, Metrics]]) -> Epoch:
  """Epoch: the same step over all batches of a plan, as one program.

  Args:
    step: `step(state, frozen, batch, key) -> state, metrics`.

  Returns:
    `epoch(state, frozen, data, plan, key, *, axis_name=...) -> state,
    metrics`, with the keyword if the step has it. `data` is a dictionary of
    arrays `[examples, ...]` on the device, `plan` comes from
    `epoch_plan`, and metrics have a leading axis of steps. A batch has
    the rows of `data` and the plan's `"index"` and `"mask"`; a mask of tokens
    in `data` counts too. Of several domains `data` and `plan` have a part each,
    and so has a batch. It raises TypeError or ValueError if `data` or `plan` is
    something else, or the arrays of `data` differ in length.

  Examples:
    >>> def step(state, frozen, batch, key):
    ...   return state + jnp.sum(batch["x"], where=batch["mask"]), {}
    >>> epoch = jax.jit(scan_epoch(step))
    >>> data = {"x": jnp.array([1.0, 2.0, 4.0])}
    >>> key = jax.random.key(0)
    >>> state, metrics = epoch(0.0, {}, data, epoch_plan(3, 2, key=key), key)
    >>> state
    Array(7., dtype=float32)

  References:
    `jax.lax.scan
    <https://docs.jax.dev/en/latest/_autosummary/jax.lax.scan.html>`_.
  """

  def epoch(
    state: Any, frozen: Any, data: Any, plan: Any, key: Array, **options: Any
  ) -> tuple[Any, Metrics]:
    data = _as_data("scan_epoch", data, plan)

    def body(state: Any, rows: Any) -> tuple[Any, Metrics]:
      return step(state, frozen, _take(data, rows), key, **options)

    return jax.lax.scan(body, state, plan)

  return _with_axis_name(epoch, step)


def scan_evaluation(
  evaluate: Callable[..., Metrics],
) -> Callable[..., Metrics]:
  """Evaluation of a whole data set, as one program.

  Args:
    evaluate: `evaluate(state, frozen, batch) -> metrics`.

  Returns:
    `evaluation(state, frozen, data, plan) -> metrics`, summed over the batches
    of the plan; with the keyword `axis_name` if `evaluate` has it.

  Examples:
    >>> def evaluate(state, frozen, batch):
    ...   return {"x": (batch["x"] @ batch["mask"], batch["mask"].sum())}
    >>> evaluation = jax.jit(scan_evaluation(evaluate))
    >>> evaluation({}, {}, {"x": jnp.arange(3)}, epoch_plan(3, 2))
    {'x': (Array(3, dtype=int32), Array(3, dtype=int32))}

  References:
    `jax.lax.map <https://docs.jax.dev/en/latest/_autosummary/jax.lax.map.html>`_.
  """

  def evaluation(
    state: Any, frozen: Any, data: Any, plan: Any, **options: Any
  ) -> Metrics:
    data = _as_data("scan_evaluation", data, plan)
    metrics = jax.lax.map(
      lambda rows: evaluate(state, frozen, _take(data, rows), **options), plan
    )
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)

  return _with_axis_name(evaluation, evaluate)


def _with_axis_name(
  function: Callable[..., Any], step: Callable[..., Any]
) -> Callable[..., Any]:
  """Gives a function the keyword `axis_name` if that which it calls has it."""
  signature = inspect.signature(function)
  *parameters, _ = signature.parameters.values()
  if takes_axis_name(step):
    own = inspect.signature(step).parameters.get("axis_name")
    default = None if own is None else own.default
    parameters.append(
      inspect.Parameter(
        "axis_name", inspect.Parameter.KEYWORD_ONLY, default=default
      )
    )
  named = signature.replace(parameters=parameters)
  setattr(function, "__signature__", named)  # noqa: B010
  return function


def _as_data(name: str, data: Any, plan: Any) -> Any:
  """Returns the data as JAX arrays; an index beyond a short one is clipped."""
  if _has_parts(plan):
    return {
      part: _as_data(name, ops.get_entry(f"{name}: data", data, part), rows)
      for part, rows in plan.items()
    }
  ops.get_entry(f"{name}: plan", plan, "index")
  if not isinstance(data, Mapping):
    raise TypeError(
      f"{name}: data is a {type(data).__name__}; expected a dictionary of "
      "arrays, as kdjax.data.as_arrays returns."
    )
  data = {k: jax.tree.map(jnp.asarray, v) for k, v in data.items()}
  sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(data)}
  if len(sizes) > 1 or () in sizes:
    shapes = jax.tree.map(jnp.shape, data)
    raise ValueError(
      f"{name}: data has the shapes {shapes}; expected [examples, ...], of as "
      "many examples each."
    )
  return data


def _has_parts(plan: Any) -> bool:
  """Whether a plan is one of several domains, by their names."""
  return (
    isinstance(plan, Mapping)
    and bool(plan)
    and all(isinstance(rows, Mapping) for rows in plan.values())
  )


def _take(data: Any, rows: Any) -> dict[str, Any]:
  if _has_parts(rows):
    return {part: _take(data[part], own) for part, own in rows.items()}
  return with_rows(jax.tree.map(lambda x: x[rows["index"]], data), rows)


def with_rows(batch: Any, rows: Any) -> dict[str, Any]:
  """A batch with its rows of a plan; its own mask (of tokens) counts too."""
  rows = dict(rows)
  if "mask" in batch:
    own = batch["mask"]
    real = rows["mask"].reshape(-1, *[1] * (own.ndim - 1))
    rows["mask"] = own.astype(bool) & real
  return batch | rows
