"""Contrastive representation distillation (CRD), with memory banks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import distillation, ops
from kdjax.methods._binding import Roles, resolve
from kdjax.methods._objective import (
  Metrics,
  Objective,
  as_hyperparameters,
  batch_mean,
  loss_metric,
  widen,
)
from kdjax.methods._stages import field_of
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row
from kdjax.nets import layers

_ROLES = ("student", "teacher")


_ROWS_AT_ONCE = 2**15


def _crd(
  num_examples: int,
  *,
  labels: Any = None,
  negatives: int = 16384,
  dim: int = 128,
  temperature: ArrayLike = 0.07,
  momentum: ArrayLike = 0.5,
) -> Objective:
  """By `kdjax.distillation.crd_nce_loss`, both ways, with memory banks.

  Student and teacher are embedded linearly, to unit norm `[batch, dim]`. Each
  embedding is to tell the other network's of the same example from those of
  other examples; positives and negatives come from two banks
  `[num_examples, dim]`, which are moved towards the batch's embeddings after it
  was scored. `batch["index"]` is the number of an example.

  Padded rows are never written to the banks; of an example that is twice in a
  batch, the last is. With `labels` `[num_examples]`, negatives are of other
  classes, as in the published code. They depend on the key and on the place in
  the batch alone, so the number of devices changes nothing. The first batch
  sets both normalizers for good.

  Departs from the authors' code: there negatives are drawn without replacement,
  in the data loader, by NumPy; here with replacement, on the device.
  """
  ops.check_integer("num_examples", num_examples, 2)
  ops.check_integer("negatives", negatives, 1)
  ops.check_integer("dim", dim, 1)
  ops.check_positive("temperature", temperature)
  ops.check_range("momentum", momentum, 0.0, 1.0)
  classes = None if labels is None else _by_class(labels, num_examples)
  count = min(negatives, num_examples - 1)

  def init(key: Array, specs: Roles) -> tuple[dict[str, Any], dict[str, Any]]:
    params, banks = {}, {}
    bound = (3 / dim) ** 0.5
    for i, role in enumerate(_ROLES):
      weights, rows = jax.random.split(jax.random.fold_in(key, i))
      params[role] = _linear(
        role, resolve("crd", role, specs, {}), dim, weights
      )
      banks[role] = jax.random.uniform(
        rows, (num_examples, dim), minval=-bound, maxval=bound
      )
    state = {
      "banks": banks,
      "log_normalizers": dict.fromkeys(_ROLES, jnp.zeros(())),
      "started": jnp.zeros((), bool),
      "hyperparameters": as_hyperparameters(
        {"temperature": temperature, "momentum": momentum}
      ),
    }
    if classes is not None:
      # In the state, since constants of a program are baked into it.
      state["classes"] = jax.tree.map(jnp.asarray, classes)
    return params, state

  def apply(
    params: Any,
    state: Any,
    outputs: Roles,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    index, mask = (
      ops.get_entry("crd: batch", batch, k) for k in ("index", "mask")
    )
    ops.debug_check(
      lambda: (index >= 0) & (index < num_examples),
      f"batch['index'] must lie in [0, {num_examples}); got " + "{}",
      index,
    )
    rows = {role: resolve("crd", role, outputs, batch) for role in _ROLES}
    rows["teacher"] = jax.lax.stop_gradient(rows["teacher"])
    embeddings = {role: _embed(params[role], rows[role]) for role in _ROLES}
    drawn = _draw(key, index, count, num_examples, state, axis_name)
    candidates = jnp.concatenate([index[:, None], drawn], 1)
    banks = jax.lax.stop_gradient(state["banks"])
    values, log_normalizers = 0.0, {}
    for role, other in (_ROLES, _ROLES[::-1]):
      scores = _scores(embeddings[role], banks[other], candidates)
      scores /= state["hyperparameters"]["temperature"]
      log_normalizers[role] = jnp.where(
        state["started"],
        state["log_normalizers"][role],
        _log_normalizer(scores, mask, num_examples, axis_name),
      )
      values += distillation.crd_nce_loss(
        scores[:, 0], scores[:, 1:], log_normalizers[role], num_examples
      )
    loss = batch_mean(values, batch, axis_name, _crd)
    written, kept, *new_rows = (
      _everywhere(x, axis_name)
      for x in (index, mask, *(embeddings[role] for role in _ROLES))
    )
    moved = {
      role: _move(
        banks[role],
        jax.lax.stop_gradient(new),
        written,
        kept,
        state["hyperparameters"]["momentum"],
      )
      for role, new in zip(_ROLES, new_rows, strict=True)
    }
    state = state | {
      "banks": moved,
      "log_normalizers": log_normalizers,
      "started": state["started"] | jnp.any(kept),
    }
    return loss, state, loss_metric(loss, batch)

  return Objective(init, apply)


def _linear(role: str, spec: Any, dim: int, key: Array) -> dict[str, Array]:
  width = field_of(role, spec, "embedding").shape[-1]
  layer = layers.linear(width, dim, rngs=nnx.Rngs(key))
  # Flax's are float32; the banks are float64 under `jax_enable_x64`.
  return jax.tree.map(
    lambda x: x.astype(float), nnx.to_pure_dict(nnx.state(layer))
  )


def _embed(params: Any, outputs: Any) -> Float[Array, "batch dim"]:
  rows = widen(outputs.embedding)
  rows = jnp.matmul(rows, params["kernel"], precision="highest")
  return ops.unit_vectors(rows + params["bias"][None])


def _by_class(labels: Any, num_examples: int) -> dict[str, np.ndarray]:
  """Returns the examples in order of their labels, and their class's place."""
  labels = np.asarray(labels)
  if labels.shape != (num_examples,):
    raise ValueError(
      f"crd: labels have shape {labels.shape}; expected ({num_examples},), one "
      "an example."
    )
  _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
  if sizes.size < 2:
    raise ValueError(
      "crd: labels are all alike; expected two classes, or no labels."
    )
  starts = np.cumsum(sizes) - sizes
  table = {
    "order": np.argsort(classes, kind="stable"),
    "start": starts[classes],
    "size": sizes[classes],
  }
  return {name: array.astype(np.int32) for name, array in table.items()}


def _draw(
  key: Array,
  index: Int[Array, " batch"],
  count: int,
  num_examples: int,
  state: Any,
  axis_name: str | None,
) -> Int[Array, "batch negatives"]:
  """Draws examples that are not the row's own class, or the row itself."""
  place = ops.gathered_positions(index.size, axis_name)
  classes = state.get("classes")
  if classes is None:
    start, size = index, jnp.ones_like(index)
  else:
    start, size = classes["start"][index], classes["size"][index]

  def draw(place: Array, start: Array, size: Array) -> Array:
    drawn = jax.random.randint(
      jax.random.fold_in(key, place), (count,), 0, num_examples - size
    )
    # The class occupies `size` places from `start` on: step over it.
    return jnp.where(drawn >= start, drawn + size, drawn)

  drawn = jax.vmap(draw)(place, start, size)
  return drawn if classes is None else classes["order"][drawn]


def _scores(
  anchors: Float[Array, "batch dim"],
  bank: Float[Array, "examples dim"],
  candidates: Int[Array, "batch candidates"],
) -> Float[Array, "batch candidates"]:
  """Returns inner products with rows of a bank, few of them at a time."""

  @jax.checkpoint
  def score(column: Int[Array, " batch"]) -> Float[Array, " batch"]:
    return jnp.sum(anchors * bank[column], 1)

  size = max(1, _ROWS_AT_ONCE // anchors.shape[0])
  size = min(size, candidates.shape[1])
  return jax.lax.map(score, candidates.T, batch_size=size).T


def _log_normalizer(
  scores: Float[Array, "batch candidates"],
  mask: Bool[Array, " batch"],
  num_examples: int,
  axis_name: str | None,
) -> Float[Array, ""]:
  """Returns the logarithm of `crd_normalizer`, 0 if no row counts."""
  value = distillation.crd_log_normalizer(scores, num_examples, mask, axis_name)
  return jnp.where(value == -jnp.inf, 0.0, value)


def _everywhere(x: Array, axis_name: str | None) -> Array:
  """Returns the rows of all devices, which JAX knows to be alike on each."""
  if axis_name is None:
    return x
  devices = jnp.arange(jax.lax.axis_size(axis_name))
  own = devices == jax.lax.axis_index(axis_name)
  own = jnp.expand_dims(own, range(1, x.ndim + 1))
  spread = jax.lax.psum(jnp.where(own, x[None], 0), axis_name)
  return spread.reshape(-1, *x.shape[1:]).astype(x.dtype)


def _move(
  bank: Float[Array, "examples dim"],
  rows: Float[Array, "batch dim"],
  index: Int[Array, " batch"],
  kept: Bool[Array, " batch"],
  momentum: Array,
) -> Float[Array, "examples dim"]:
  """Moves the rows of a batch, of equal indices the last, to unit norm."""
  same = (index[:, None] == index[None]) & kept[None]
  place = jnp.arange(index.size)
  overwritten = jnp.any(same & (place[:, None] < place[None]), 1)
  moved = ops.unit_vectors(momentum * bank[index] + (1 - momentum) * rows)
  target = jnp.where(kept & ~overwritten, index, bank.shape[0])
  return bank.at[target].set(moved.astype(bank.dtype), mode="drop")


ROWS = {
  "crd": row(
    "relations",
    "Contrastive representation distillation, Tian 2020",
    "tells the teacher's embedding of an example from thousands of others",
    _crd,
    weight=0.8,
    source=REPDISTILLER,
  ),
  "crd+kd": row(
    "relations",
    "CRD and KD, Tian 2020",
    "adds KD to CRD",
    _crd,
    weight=0.8,
    kd=1.0,
    source=REPDISTILLER,
  ),
}
