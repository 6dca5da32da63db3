"""TinyBERT: layers in a stage before, then predictions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.language._hidden_states import hidden_states
from kdjax.methods.language._intermediate_matches import example_mask
from kdjax.methods.language._row_kinds import row


def _tinybert() -> Objective:
  """The soft cross-entropy of the predictions, at temperature 1.

  As in the authors' code, it is divided by the number of classes.

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020.
  """

  def loss(student_logits: Array, teacher_logits: Array) -> Array:
    value = soft_cross_entropy(student_logits, teacher_logits)
    return value / student_logits.shape[-1]

  return stateless(loss)


def _tinybert_layers() -> Objective:
  """The stage before: attention scores and hidden states of all layers.

  The mean squared errors of the scores before the softmax and of the hidden
  states, with the embedding, between the student's layer m and the teacher's
  layer m k. One linear layer projects all hidden states of the student; between
  equal widths there is none.

  Departs from the authors' code: there is no mask of tokens there; here padding
  does not count, where the batch has an `"attention_mask"`.

  References:
    Jiao et al., `TinyBERT <https://arxiv.org/abs/1909.10351>`_, 2020.
  """

  def build(
    student: nets.Outputs, teacher: nets.Outputs, rngs: nnx.Rngs
  ) -> nnx.Module:
    ours, theirs = hidden_states("tinybert", student, teacher)
    sizes = ours[0].shape[-1], theirs[0].shape[-1]
    projectors = []
    if sizes[0] != sizes[1]:
      projectors.append(
        nnx.Linear(*sizes, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
      )
    return nnx.Dict(projectors=nnx.List(projectors))

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    batch: Any,
    *,
    axis_name: str | None,
  ) -> Array:
    options = {"where": example_mask(batch), "axis_name": axis_name}
    mask = batch.get("attention_mask")
    ours, theirs = hidden_states("tinybert", student, teacher)
    layers = language.layer_map(len(ours) - 1, len(theirs) - 1)
    scores, teacher_scores = (
      list((x.scores or {}).values()) for x in (student, teacher)
    )
    total = jnp.zeros(())
    for a, b in zip(ours, (0, *(i + 1 for i in layers)), strict=True):
      for project in parts["projectors"]:
        a = project(a)
      total += distillation.hidden_mse_loss(a, theirs[b], mask, **options)
    for a, b in zip(scores, layers, strict=True):
      total += distillation.attention_mse_loss(
        a, teacher_scores[b], mask, **options
      )
    return total

  return modular(build, loss)


def soft_cross_entropy(
  student_logits: Array, teacher_logits: Array, *, temperature: Any = 1.0
) -> Array:
  """Returns H(P, Q) of each row, at a temperature, without T^2."""
  teacher = jax.lax.stop_gradient(teacher_logits)
  probabilities = ops.softened_softmax(teacher, temperature=temperature)
  log_probs = ops.log_softened_softmax(student_logits, temperature=temperature)
  used = probabilities != 0
  return -jnp.sum(probabilities * jnp.where(used, log_probs, 0.0), -1)


ROWS = {
  "tinybert": row(
    "TinyBERT, Jiao 2020",
    "soft predictions, after a stage of attention scores and hidden states",
    _tinybert,
    initialization=_tinybert_layers,
    initialization_epochs=20,
    source="Pretrained-Language-Model/TinyBERT, task_distill.py",
  ),
}
