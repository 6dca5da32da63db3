"""Whole methods on recorded batches, beside a published training loop.

A folder of `tests/golden/whole_steps` has an `index.json` and a file a case. A
case has the batches, the first weights and those that the published loop left,
all in float64: of the student, of further networks by role, and of the parts
that a method makes for itself. A loop that draws an order has an outcome for
each order.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kdjax import methods, nets, training

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "whole_steps"
_steps: dict[Any, Any] = {}


def cases(door: str, *folders: str) -> list[str]:
  """The cases of a door, as `folder/name`."""
  return [
    f"{folder}/{name}"
    for folder in folders
    for name, case in _index(folder).items()
    if case.get("door", "generalize") == door
  ]


def _index(folder: str) -> dict[str, Any]:
  return json.loads((FOLDER / folder / "index.json").read_text())


class Student(nnx.Module):
  """Linear, ReLU, linear; of six arrays, with a linear classifier behind."""

  def __init__(self, arrays: Any):
    self.arrays = nnx.List([nnx.Param(jnp.asarray(x)) for x in arrays])

  def __call__(self, x: jax.Array) -> Any:
    w = [array[...] for array in self.arrays]
    hidden = jax.nn.relu(x @ w[0] + w[1][None])
    embedding = hidden @ w[2] + w[3][None]
    if len(w) == 4:
      return embedding
    return nets.Outputs(
      embedding @ w[4] + w[5][None],
      {"f0": hidden},
      embedding,
      classifier=(w[4], w[5]),
    )


def gap(case: str) -> tuple[float, float]:
  """How far the trained weights are from the published ones, and may be.

  Args:
    case: `folder/name`.

  Returns:
    The distance to the nearest outcome, as a share of the published way, and
    the tolerance.
  """
  folder, name = case.split("/")
  facts = _index(folder)[name]
  with jax.enable_x64(True), np.load(FOLDER / f"{case}.npz") as file:
    arrays = dict(file)
    start, trained = _student_of(arrays), _train(facts, arrays)
    found = [
      _distance(trained, _numbered(arrays, f"out:{outcome}"), start)
      for outcome in range(facts["outcomes"])
    ]
  return min(found), max(1e-4, 10 * facts["tol"])


def _distance(trained: Any, expected: Any, start: Any) -> float:
  pairs = list(zip(trained, expected, start, strict=False))[: len(expected)]
  assert all(a.shape == b.shape for a, b, _ in pairs)
  off = sum(np.sum((a - b) ** 2) for a, b, _ in pairs)
  way = sum(np.sum((b - c) ** 2) for _, b, c in pairs)
  return float(np.sqrt(off / way))


def _numbered(arrays: Any, prefix: str) -> list[Any]:
  """The arrays `prefix:0`, `prefix:1` and so on."""
  count = sum(key.rpartition(":")[0] == prefix for key in arrays)
  return [arrays[f"{prefix}:{i}"] for i in range(count)]


def _student_of(arrays: Any) -> list[Any]:
  """The student's first weights, with a classifier that a method replaces."""
  weights = _numbered(arrays, "in:weights")
  if len(weights) > 4:
    return weights
  labels = [np.max(x) for k, x in arrays.items() if "label" in k]
  width, classes = weights[2].shape[1], int(max(labels)) + 1
  return [*weights, np.zeros((width, classes)), np.zeros(classes)]


def _batch(arrays: Any, step: int) -> dict[str, Any]:
  """The batch of a step."""

  def entries(prefix: str) -> dict[str, Any]:
    own = {
      key.removeprefix(prefix): jnp.asarray(values[step])
      for key, values in arrays.items()
      if key.startswith(prefix) and ":" not in key.removeprefix(prefix)
    }
    axes = own["label"].ndim if "label" in own else 1
    return own | {"mask": jnp.ones(own["image"].shape[:axes], bool)}

  if "in:image" in arrays:
    return entries("in:")
  return {
    "source": entries("in:source_"),
    "target": entries("in:target_"),
  }


def _train(facts: Any, arrays: Any) -> list[np.ndarray]:
  """Trains a method that is made from its name; returns the student."""
  options: dict[str, Any] = {
    k: tuple(v) if isinstance(v, list) else v
    for k, v in facts["kwargs"].items()
  }
  method = methods.create(facts["method"], **options)
  roles = facts.get("networks", {})
  networks = {"student": Student(_student_of(arrays))} | {
    role: Student(_numbered(arrays, f"in:{role}")) for role in roles
  }
  views = {}
  if "in:target_strong" in arrays:
    views["strong"] = lambda key, part: part["strong"]
  door = getattr(training, facts.get("door", "generalize"))
  optimizer = optax.adam(facts["optimizer"]["learning_rate"])
  learner = door(networks, method, optimizer, views=views)
  state = learner.init(jax.random.key(0), _batch(arrays, 0))
  params = state.params
  placed = _placed(params["objective"], _numbered(arrays, "in:parts"))
  state = state._replace(params={**params, "objective": placed})
  # The state has the steps of annealing: those cases share a program.
  own = {k: v for k, v in options.items() if k != "anneal_steps"}
  kind = facts["method"], str(own), str(jax.tree.map(jnp.shape, state))
  step = _steps.setdefault(kind, jax.jit(learner.step))
  for i in range(facts["steps"]):
    batch, key = _batch(arrays, i), jax.random.key(i)
    state, _ = step(state, learner.frozen, batch, key)
  return list(map(np.asarray, jax.tree.leaves(state.params["student"])))


def _placed(tree: Any, parts: list[Any]) -> Any:
  """The recorded parts in place of arrays of their shapes, in their order."""
  leaves, structure = jax.tree.flatten(tree)
  left = list(parts)
  for i, leaf in enumerate(leaves):
    for j, part in enumerate(left):
      # A published matrix may be transposed.
      for own in (part, part.T):
        if own.shape == leaf.shape:
          leaves[i] = jnp.asarray(own)
          break
      else:
        continue
      left.pop(j)
      break
  shapes = [leaf.shape for leaf in leaves]
  assert not left, f"{len(left)} recorded parts fit none of {shapes}"
  return jax.tree.unflatten(structure, leaves)
