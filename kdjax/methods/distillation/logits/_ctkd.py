"""A temperature that learns against the student (CTKD)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _ctkd(
  *,
  steps_per_epoch: int,
  ramp_epochs: ArrayLike = 10.0,
  lowest: ArrayLike = 1.0,
  span: ArrayLike = 20.0,
  units: int | None = None,
) -> Objective:
  r"""By `kdjax.distillation.ctkd_temperature`, of a `soft_target_loss`.

  .. math::
    \lambda = \tfrac{1}{2} \bigl(1 - \cos(\pi \min(e / E, 1))\bigr)

  in epoch e = 1, 2, ... of `ramp_epochs` E scales the reversed gradient. One
  temperature is for all, and starts at 15.6, as in the authors' code; with
  `units` a perceptron gives each example its own from the logits of both
  networks, the paper's other form.
  """

  def build(
    student_logits: Any, teacher_logits: Any, rngs: nnx.Rngs
  ) -> nnx.Module:
    widths = student_logits.shape[-1] + teacher_logits.shape[-1]
    return _Curriculum(widths, units, rngs)

  def loss(
    curriculum: Any,
    student_logits: Any,
    teacher_logits: Any,
    *,
    ramp_epochs: ArrayLike,
    lowest: ArrayLike,
    span: ArrayLike,
  ) -> Array:
    epoch = curriculum.step[...] // steps_per_epoch + 1
    curriculum.step[...] += 1
    reversal = (1 - jnp.cos(jnp.pi * jnp.minimum(epoch / ramp_epochs, 1))) / 2
    temperature = distillation.ctkd_temperature(
      curriculum(student_logits, teacher_logits),
      reversal=reversal,
      lowest=lowest,
      span=span,
    )
    return distillation.soft_target_loss(
      student_logits, teacher_logits, temperature=temperature
    )

  return modular(
    build,
    loss,
    ramp_epochs=ramp_epochs,
    lowest=lowest,
    span=span,
  )


class _Curriculum(nnx.Module):
  """The temperature before it is squashed, and the number of its calls."""

  def __init__(self, widths: int, units: int | None, rngs: nnx.Rngs):
    self.step = nnx.Variable(jnp.zeros((), jnp.int32))
    self.shared = units is None
    if units is None:
      self.parameter = nnx.Param(jnp.ones(()))
    else:
      self.inner = layers.linear(widths, units, rngs=rngs)
      self.outer = layers.linear(units, 1, rngs=rngs)

  def __call__(self, student: Array, teacher: Array) -> Array:
    if self.shared:
      return self.parameter[...]
    # Only the perceptron works against the student, not the student itself.
    logits = jax.lax.stop_gradient(jnp.concatenate([student, teacher], -1))
    return self.outer(nnx.relu(self.inner(logits)))[..., 0]


ROWS = {
  "ctkd": row(
    "logits",
    "Curriculum temperature, Li 2023",
    "learns the temperature against the student, more and more",
    _ctkd,
    weight=0.9,
    cross_entropy=0.1,
    source="CTKD, scripts/run_cifar_distill.sh",
  ),
}
