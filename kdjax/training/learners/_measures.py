"""The metrics of a learner, by the form of its batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import methods, metrics, ops
from kdjax.training.steps._evaluation import Metric


def measures_of(
  method: methods.Method,
  networks: Mapping[str, Any],
  on: str | tuple[str, ...],
  own: Mapping[str, Any],
) -> tuple[dict[str, methods.Pass], dict[str, Metric]]:
  """The passes of an evaluation, on batches of one domain, and its metrics."""
  trained = [name for name in method.trained if name in networks]
  peers = [name for name in trained if name.startswith("peer_")]
  if peers:
    return {name: methods.Pass(name, on) for name in peers}, _peers(peers)
  if "student" not in trained:
    towers = [name for name in trained if name.startswith("student_")]
    names = [name.removeprefix("student_") for name in towers]
    passes = {
      name: methods.Pass(name, name.removeprefix("student_")) for name in towers
    }
    if not towers:
      passes = {trained[0]: methods.Pass(trained[0], on)} if trained else {}
      return passes, {}
    return passes, _retrieval(names)
  passes = {"student": methods.Pass("student", on)}
  row = method.passes.get("teacher")
  if row is None or row.network != "teacher":
    return passes, CLASSIFICATION
  passes["teacher"] = methods.Pass("teacher", own.get("teacher", row.on))
  return passes, CLASSIFICATION | FIDELITY


def _retrieval(names: list[str]) -> dict[str, Metric]:
  return {
    f"{a}_to_{b}": (
      _found,
      (f"student_{a}_embeddings", f"student_{b}_embeddings"),
    )
    for a in names
    for b in names
    if a != b
  }


def _found(
  queries: Array, keys: Array, *, where: Array, axis_name: str | None
) -> Array:
  """The share of queries whose own key is the nearest one of the batch."""
  whole = ops.gather_batch(ops.unit_vectors(keys), axis_name)
  used = ops.gather_batch(where, axis_name)
  cosines = jnp.where(used[None], ops.unit_vectors(queries) @ whole.T, -jnp.inf)
  own = ops.gathered_positions(queries.shape[0], axis_name)
  right = jnp.argmax(cosines, -1) == own
  return ops.masked_mean(right.astype(float), where, axis_name=axis_name)


def _peers(names: Sequence[str]) -> dict[str, Metric]:
  logits = tuple(f"{name}_logits" for name in names)

  def ensemble(*arguments: Array) -> Array:
    *each, labels = arguments
    p = jnp.mean(jnp.stack([jax.nn.softmax(z) for z in each]), 0)
    return metrics.accuracy(p, labels)

  def disagreement(*each: Array) -> Array:
    pairs = [(a, b) for i, a in enumerate(each) for b in each[:i]]
    same = jnp.stack([metrics.agreement(a, b) for a, b in pairs])
    return 1 - jnp.mean(same, 0)

  alone: dict[str, Metric] = {
    f"{name}/accuracy": (metrics.accuracy, (z, "labels"))
    for name, z in zip(names, logits, strict=True)
  }
  return alone | {
    "ensemble/accuracy": (ensemble, (*logits, "labels")),
    "disagreement": (disagreement, logits),
  }


# Metrics of a classifier, as names of arrays bind them.
CLASSIFICATION: dict[str, Metric] = {
  "accuracy": (metrics.accuracy, ("logits", "labels")),
  "cross_entropy": (ops.cross_entropy, ("logits", "labels")),
}
# Metrics that tell whether distillation helps: docs/diagnostics.md.
FIDELITY: dict[str, Metric] = {
  "agreement": (metrics.agreement, ("student_logits", "teacher_logits")),
  "kl": (ops.kl_divergence, ("student_logits", "teacher_logits")),
  "teacher_accuracy": (metrics.accuracy, ("teacher_logits", "labels")),
  "teacher_entropy": (metrics.entropy, ("teacher_logits",)),
}
