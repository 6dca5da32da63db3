"""DSKD with cross-model attention (CMA): between two tokenizers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.language._dskd import (
  DIVERGENCES,
  known_labels,
  logits_by_head,
  make_projections,
)
from kdjax.methods.language._row_kinds import row
from kdjax.nets import layers


def _dskd_cma(
  *, divergence: str = "forward_kl", temperature: ArrayLike = 1.0
) -> Objective:
  """DSKD with cross-model attention (CMA).

  As `dskd`, with the hidden states of one side brought to the positions of the
  other by attention. Queries are a linear layer of the student's embeddings of
  input and target, keys are the teacher's, divided by their standard deviation.
  The divergence counts positions where the mapped teacher predicts the label.

  The batch has `"tokens"`, `"label"` and `"mask"` of the student, and
  `"teacher_tokens"`, `"teacher_label"` and `"teacher_mask"`, of the teacher's
  tokenizer.

  Departs from the authors' code: there the standard deviations are over padding
  too; here over valid positions, of this device.

  References:
    Zhang et al., `Dual-space knowledge distillation for large language models
    <https://arxiv.org/abs/2406.17328>`_, 2024.
  """
  ops.check_choice("divergence", divergence, tuple(DIVERGENCES))

  def build(
    student: nets.Outputs, teacher: nets.Outputs, rngs: nnx.Rngs
  ) -> nnx.Module:
    parts: Any = make_projections(student, teacher, rngs)
    widths = [
      2 * _table(role, outputs).shape[-1]
      for role, outputs in (("student", student), ("teacher", teacher))
    ]
    parts["query"] = layers.linear(*widths, rngs=rngs)
    return parts

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    batch: Any,
    *,
    temperature: ArrayLike,
    axis_name: str | None,
  ) -> Array:
    where, teacher_where = batch["mask"], batch["teacher_mask"]
    labels = known_labels(batch["label"], student)
    inputs, targets = _embed(
      _table("student", student), batch["tokens"], labels, where
    )
    keys, teacher_targets = _embed(
      _table("teacher", teacher),
      batch["teacher_tokens"],
      known_labels(batch["teacher_label"], teacher),
      teacher_where,
    )
    del targets
    hidden = jax.lax.stop_gradient(
      ops.zero_masked(_states(teacher), teacher_where)
    )
    values = hidden / _deviation(hidden, teacher_where) + (
      teacher_targets / _deviation(teacher_targets, teacher_where)
    )
    keys = keys / _deviation(keys, teacher_where)
    scores = jnp.einsum("bqw,bkw->bqk", parts["query"](inputs), keys)
    scores /= math.sqrt(2 * hidden.shape[-1])
    pairs = where[:, :, None] & teacher_where[:, None, :]
    scores = jnp.where(pairs, scores, -1e5)
    mixed = jax.nn.softmax(scores, -1) @ parts["t2s"](values)
    toward = logits_by_head("student", student, mixed)
    ours = parts["s2t"](ops.zero_masked(_states(student), where))
    mixed = jax.nn.softmax(jnp.swapaxes(scores, 1, 2), -1) @ ours
    back = logits_by_head("teacher", teacher, mixed)
    right = jnp.argmax(toward, -1) == labels
    divergences = DIVERGENCES[divergence](
      student.logits, jax.lax.stop_gradient(toward), temperature=temperature
    )
    own = ops.cross_entropy(toward, labels) + jnp.where(right, divergences, 0.0)
    other = ops.kl_divergence(back, jax.lax.stop_gradient(teacher.logits))
    # Both sums are divided by the number of the student's tokens.
    counts = [
      ops.masked_mean(jnp.ones(x.shape) * x, axis_name=axis_name) * x.size
      for x in (where, teacher_where)
    ]
    return ops.masked_mean(own, where, axis_name=axis_name) + (
      ops.masked_mean(other, teacher_where, axis_name=axis_name)
      * counts[1]
      / jnp.maximum(counts[0], 1.0)
    )

  return modular(build, loss, temperature=temperature)


def _states(outputs: nets.Outputs) -> Array:
  assert outputs.embedding is not None  # seen in `make_projections`
  return outputs.embedding


def _table(role: str, outputs: nets.Outputs) -> Any:
  if outputs.token_embeddings is None:
    raise ValueError(
      f"dskd_cma: {role} has no token_embeddings; expected a network such as "
      "nets.Decoder."
    )
  return outputs.token_embeddings


def _embed(
  table: Array, tokens: Array, labels: Array, where: Array
) -> tuple[Array, Array]:
  """Returns the embeddings of inputs beside targets, and of targets."""
  table = jax.lax.stop_gradient(table)
  inputs, targets = (
    ops.zero_masked(table[jnp.where(where, x, 0)], where)
    for x in (tokens, labels)
  )
  return jnp.concatenate([inputs, targets], -1), targets


def _deviation(x: Array, where: Array) -> Array:
  where = jnp.broadcast_to(where[..., None], x.shape)
  mean = ops.masked_mean(x, where)
  variance = ops.masked_mean(jnp.square(x - mean), where)
  return jnp.sqrt(variance + 1e-12)


ROWS = {
  "dskd_cma": row(
    "DSKD with CMA, Zhang 2024",
    "the same between two tokenizers, aligned by attention",
    _dskd_cma,
    weight=0.5,
    cross_entropy=0.5,
    source="DSKD, scripts, kd_rate",
  ),
}
