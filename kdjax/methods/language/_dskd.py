"""Dual-space knowledge distillation (DSKD)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, language, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.language._row_kinds import row
from kdjax.nets import layers

DIVERGENCES = {
  "forward_kl": ops.kl_divergence,
  "reverse_kl": distillation.reverse_kl_loss,
  "adaptive_kl": language.adaptive_kl_loss,
  "jsd": distillation.generalized_jsd_loss,
}


def _dskd(
  *, divergence: str = "forward_kl", temperature: ArrayLike = 1.0
) -> Objective:
  r"""DSKD: in both networks' spaces.

  .. math::
    \ell = H(y, Q_{T \to S}) + D(\mathrm{sg}(Q_{T \to S}), Q)
         + \mathrm{KL}(P \Vert P_{S \to T})

  A linear layer maps the teacher's last hidden states to the student's width,
  and the student's head, without gradient, gives the logits of Q_{T -> S}; a
  second one maps the student's to the teacher's width and head. D is
  `divergence`: "forward_kl", "reverse_kl", "adaptive_kl" or "jsd", at
  `temperature`. Both networks have one tokenizer; see `dskd_cma`.

  References:
    Zhang et al., `Dual-space knowledge distillation for large language models
    <https://arxiv.org/abs/2406.17328>`_, 2024.
  """
  ops.check_choice("divergence", divergence, tuple(DIVERGENCES))

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    labels: Array,
    *,
    temperature: ArrayLike,
  ) -> Array:
    labels = known_labels(labels, student)
    toward = logits_by_head("student", student, parts["t2s"](teacher.embedding))
    back = logits_by_head("teacher", teacher, parts["s2t"](student.embedding))
    return (
      ops.cross_entropy(toward, labels)
      + DIVERGENCES[divergence](
        student.logits, jax.lax.stop_gradient(toward), temperature=temperature
      )
      + ops.kl_divergence(back, jax.lax.stop_gradient(teacher.logits))
    )

  return modular(make_projections, loss, temperature=temperature)


def make_projections(
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


def logits_by_head(role: str, outputs: nets.Outputs, hidden: Array) -> Array:
  """Applies a head without gradient, and its soft cap."""
  assert outputs.classifier is not None, role
  kernel, bias = jax.lax.stop_gradient(outputs.classifier)
  logits = hidden @ kernel + bias[None, None]
  cap = outputs.logit_softcap
  return logits if cap is None else cap * jnp.tanh(logits / cap)


def known_labels(labels: Array, outputs: nets.Outputs) -> Array:
  """Returns labels in range: masked positions may have any."""
  return jnp.clip(labels, 0, outputs.logits.shape[-1] - 1)


ROWS = {
  "dskd": row(
    "DSKD, Zhang 2024",
    "hidden states mapped to the other network's head, in both directions",
    _dskd,
    weight=0.5,
    cross_entropy=0.5,
    source="DSKD, scripts, kd_rate",
  ),
}
