"""A buffer of a method's own: a reservoir in the objective's state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import continual, ops
from kdjax.methods._method import Method
from kdjax.methods._objective import Metrics, Objective

STORED = "stored"  # The entry of the batch that the buffer is to take.
LOGITS = "stored_logits"


def with_buffer(
  objective: Objective,
  size: int | None,
  draws: int | None,
  *,
  parts: tuple[str, ...] = ("replay",),
  logits: bool = False,
  **fields: Any,
) -> Method:
  """A method that draws replayed examples from a buffer of its own.

  The buffer takes each batch after its draws, by reservoir sampling, with the
  inputs as they were before the augmentation, and with the student's logits of
  this step if a loss reads them. All devices have the same buffer, and draw
  different examples of it.

  Args:
    objective: reads the parts.
    size: of the buffer; None if the caller gives the parts in each batch.
    draws: how many examples a draw has on each device; None for as many as the
      current batch.
    parts: the names of the draws.
    logits: whether the buffer holds logits, as `"stored_logits"`.
    **fields: of the method.

  Returns:
    A `Method`.
  """
  if size is None:
    if draws is not None:
      raise ValueError(
        f"draws is {draws} without a buffer; expected buffer=..., its size."
      )
    return Method(objective, **fields)
  ops.check_integer("buffer", size, 1)
  if draws is not None:
    ops.check_integer("draws", draws, 1)

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    params, inner = objective.init(key, specs)
    batch = ops.get_entry("the buffer: specs", specs, "batch")
    rows = _rows_of(batch)
    if logits:
      rows[LOGITS] = specs["student"].logits
    reservoir = continual.reservoir_init(rows, size=size)
    return params, {"objectives": inner, "reservoir": reservoir}

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    value, inner, metrics = objective.apply(
      params, state["objectives"], outputs, batch, key, axis_name=axis_name
    )
    rows = dict(batch[STORED])
    if logits:
      rows[LOGITS] = jax.lax.stop_gradient(outputs["student"].logits)
    reservoir = continual.reservoir_update(
      state["reservoir"],
      jax.random.fold_in(key, 1),
      rows,
      where=batch["mask"],
      axis_name=axis_name,
    )
    moved = state | {"objectives": inner, "reservoir": reservoir}
    return value, moved, metrics

  def prepare(
    key: Array,
    batch: Any,
    run: Any,
    *,
    state: Any,
    augment: Callable[..., Any] | None = None,
  ) -> Any:
    reservoir = _reservoir_of(state)
    rows = {k: v for k, v in batch.items() if k in reservoir.examples}
    current = ops.leading_size("the buffer: batch", rows)
    count = min(current if draws is None else draws, size)
    for i, part in enumerate(parts, 1):
      drawn, filled = continual.reservoir_sample(
        reservoir, jax.random.fold_in(key, i), count
      )
      # A row that the buffer lacks is a current one, for batch statistics.
      drawn = {
        k: _filled(v, filled, rows[k]) if k in rows else v
        for k, v in drawn.items()
      }
      batch = {**batch, part: {**drawn, "mask": filled}}
    batch = {**batch, STORED: rows}
    return batch if augment is None else augment(key, batch, run)

  vars(prepare)["drawn"] = parts  # No data of the caller's.
  return Method(
    objective._replace(init=init, apply=apply), prepare=prepare, **fields
  )


def _rows_of(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The entries of a batch that have a row for each example."""
  rows = batch["mask"].shape[0]
  return {
    k: v
    for k, v in batch.items()
    if k != "mask" and not isinstance(v, Mapping) and v.shape[:1] == (rows,)
  }


def _reservoir_of(state: Any) -> continual.Reservoir:
  """The reservoir within the state of an objective."""

  def is_reservoir(x: Any) -> bool:
    return isinstance(x, continual.Reservoir)

  leaves = jax.tree.leaves(state, is_leaf=is_reservoir)
  (reservoir,) = filter(is_reservoir, leaves)
  return reservoir


def _filled(rows: Array, filled: Array, others: Array) -> Array:
  """Rows, with others in place of those that are not filled."""
  others = jnp.resize(others, rows.shape)
  mask = filled.reshape(-1, *(1,) * (rows.ndim - 1))
  return jnp.where(mask, rows, others)
