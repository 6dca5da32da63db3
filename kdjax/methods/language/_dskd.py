"""Dual-space knowledge distillation (DSKD), with cross-model attention."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.nets import layers

_DIVERGENCES = {
  "forward_kl": ops.kl_divergence,
  "reverse_kl": distillation.reverse_kl_loss,
  "adaptive_kl": language.adaptive_kl_loss,
  "jsd": distillation.generalized_jsd_loss,
}


def dskd(
  *, divergence: str = "forward_kl", temperature: ArrayLike = 1.0
) -> Objective:
  r"""Dual-space knowledge distillation (DSKD): in both networks' spaces.

  .. math::
    \ell = H(y, Q_{T \to S}) + D(\mathrm{sg}(Q_{T \to S}), Q)
         + \mathrm{KL}(P \Vert P_{S \to T})

  A linear layer maps the teacher's last hidden states to the student's width,
  and the student's head, without gradient, gives the logits of Q_{T -> S}; a
  second one maps the student's to the teacher's width and head. Both networks
  have one tokenizer; see `dskd_cma`.

  Args:
    divergence: D: "forward_kl", "reverse_kl", "adaptive_kl" or "jsd".
    temperature: of D.

  Returns:
    An objective; its published weight is 0.5, beside 0.5 times the
    cross-entropy.

  Raises:
    ValueError: if the divergence is unknown; from `init`, if a network has no
      head.

  References:
    Zhang et al., `Dual-space knowledge distillation for large language models
    <https://arxiv.org/abs/2406.17328>`_, 2024.
  """
  ops.check_choice("divergence", divergence, tuple(_DIVERGENCES))

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    labels: Array,
    *,
    temperature: ArrayLike,
  ) -> Array:
    labels = _known(labels, student)
    toward = _logits("student", student, parts["t2s"](teacher.embedding))
    back = _logits("teacher", teacher, parts["s2t"](student.embedding))
    return (
      ops.cross_entropy(toward, labels)
      + _DIVERGENCES[divergence](
        student.logits, jax.lax.stop_gradient(toward), temperature=temperature
      )
      + ops.kl_divergence(back, jax.lax.stop_gradient(teacher.logits))
    )

  return modular(_build, loss, temperature=temperature)


def dskd_cma(
  *, divergence: str = "forward_kl", temperature: ArrayLike = 1.0
) -> Objective:
  r"""DSKD with cross-model attention (CMA): between two tokenizers.

  As `dskd`, with the hidden states of one side brought to the positions of the
  other by attention. Queries are a linear layer of the student's embeddings of
  input and target, keys are the teacher's, divided by their standard deviation.
  The divergence D counts positions where the mapped teacher predicts the label.

  The batch has `"tokens"`, `"label"` and `"mask"` of the student, and
  `"teacher_tokens"`, `"teacher_label"` and `"teacher_mask"`, of the teacher's
  tokenizer.

  Args:
    divergence: D: "forward_kl", "reverse_kl", "adaptive_kl" or "jsd".
    temperature: of D.

  Returns:
    An objective; its published weight is 0.5, beside 0.5 times the
    cross-entropy.

  Raises:
    ValueError: if the divergence is unknown; from `init`, if a network has no
      head or no token embeddings.

  The published code takes the standard deviations over padding too; here over
  valid positions, of this device.

  References:
    Zhang et al., `Dual-space knowledge distillation for large language models
    <https://arxiv.org/abs/2406.17328>`_, 2024.
  """
  ops.check_choice("divergence", divergence, tuple(_DIVERGENCES))

  def build(
    student: nets.Outputs, teacher: nets.Outputs, rngs: nnx.Rngs
  ) -> nnx.Module:
    parts: Any = _build(student, teacher, rngs)
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
    labels = _known(batch["label"], student)
    inputs, targets = _embed(
      _table("student", student), batch["tokens"], labels, where
    )
    keys, teacher_targets = _embed(
      _table("teacher", teacher),
      batch["teacher_tokens"],
      _known(batch["teacher_label"], teacher),
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
    toward = _logits("student", student, mixed)
    ours = parts["s2t"](ops.zero_masked(_states(student), where))
    mixed = jax.nn.softmax(jnp.swapaxes(scores, 1, 2), -1) @ ours
    back = _logits("teacher", teacher, mixed)
    right = jnp.argmax(toward, -1) == labels
    divergences = _DIVERGENCES[divergence](
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


def _build(
  student: nets.Outputs, teacher: nets.Outputs, rngs: nnx.Rngs
) -> nnx.Module:
  widths = []
  for role, outputs in (("student", student), ("teacher", teacher)):
    embedding: Any = outputs.embedding
    if outputs.classifier is None or getattr(embedding, "ndim", 0) != 3:
      raise ValueError(
        f"dskd: {role} has no head of tokens; expected a language model, such "
        "as nets.Decoder."
      )
    widths.append(embedding.shape[-1])
  return nnx.Dict(
    t2s=layers.linear(widths[1], widths[0], rngs=rngs),
    s2t=layers.linear(widths[0], widths[1], rngs=rngs),
  )


def _logits(role: str, outputs: nets.Outputs, hidden: Array) -> Array:
  """Applies a head without gradient, and its soft cap."""
  assert outputs.classifier is not None, role
  kernel, bias = jax.lax.stop_gradient(outputs.classifier)
  logits = hidden @ kernel + bias[None, None]
  cap = outputs.logit_softcap
  return logits if cap is None else cap * jnp.tanh(logits / cap)


def _states(outputs: nets.Outputs) -> Array:
  assert outputs.embedding is not None  # seen in `_build`
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


def _known(labels: Array, outputs: nets.Outputs) -> Array:
  """Returns labels in range: masked positions may have any."""
  return jnp.clip(labels, 0, outputs.logits.shape[-1] - 1)
