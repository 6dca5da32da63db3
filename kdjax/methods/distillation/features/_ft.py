"""Factor transfer (FT): paraphrases of the teacher, translations."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import last_maps
from kdjax.methods.distillation._row_kinds import REPDISTILLER, row
from kdjax.nets import layers


def _ft(
  *,
  rate: float = 0.5,
  form: str = "attention_maps",
) -> Objective:
  """By `kdjax.distillation.factor_transfer_loss`, of the last stages.

  Paraphraser and translator are three 3x3 convolutions with LeakyReLU(0.1); the
  translator has batch normalization. The paraphraser is frozen: the first step
  keeps a copy of the encoder that the stage before has trained. `rate` is the
  channels of the factor for each channel of the teacher; the published weight
  of `form="factors"` is 1000 (torchdistill).
  """

  def loss(factors: Any, student: nets.Outputs, teacher: nets.Outputs) -> Array:
    ours, theirs = last_maps(student, teacher)
    factors.freeze_once()
    pair = ops.pool_to_smaller(
      factors.translator(ours), factors.frozen_factor(theirs)
    )
    return distillation.factor_transfer_loss(*pair, form=form)

  return modular(_build(rate), loss)


def _ft_initialization(*, rate: float = 0.5) -> Objective:
  """The stage before: the paraphraser learns to reconstruct the teacher's map.

  Its loss is the mean squared error after the encoder and a decoder of three
  transposed 3x3 convolutions. The student gets no gradient. RepDistiller's
  learning rate is 0.01 for ResNets.
  """

  def loss(factors: Any, student: nets.Outputs, teacher: nets.Outputs) -> Array:
    _, theirs = last_maps(student, teacher)
    theirs = jax.lax.stop_gradient(theirs)
    return distillation.hint_loss(
      factors.paraphraser.reconstruct(theirs), theirs
    )

  return modular(_build(rate), loss)


class _Frozen(nnx.Variable):
  """A parameter that is no longer trained, and no longer decayed."""


class _Factors(nnx.Module):
  """The translator, the paraphraser and the frozen copy of its encoder."""

  def __init__(
    self,
    student_width: int,
    teacher_width: int,
    factor_width: int,
    *,
    rngs: nnx.Rngs,
  ):
    self.translator = _Coder(
      [student_width, student_width, factor_width, factor_width],
      norm=True,
      rngs=rngs,
    )
    self.paraphraser = _Paraphraser(teacher_width, factor_width, rngs=rngs)
    self.frozen = nnx.List([_Frozen(x) for x in self._encoder()])
    self.is_frozen = nnx.Variable(jnp.zeros((), bool))

  def freeze_once(self) -> None:
    """Copies the encoder as it is at the first call, and never again."""
    for frozen, value in zip(self.frozen, self._encoder(), strict=True):
      value = jax.lax.stop_gradient(value)
      frozen[...] = jnp.where(self.is_frozen[...], frozen[...], value)
    self.is_frozen[...] = jnp.ones((), bool)

  def frozen_factor(self, x: Array) -> Array:
    """The factor by the encoder as it was copied."""
    graph, params = nnx.split(self.paraphraser.encoder)
    treedef = jax.tree.structure(params)
    values = [frozen[...] for frozen in self.frozen]
    return nnx.merge(graph, jax.tree.unflatten(treedef, values))(x)

  def _encoder(self) -> list[Array]:
    return jax.tree.leaves(nnx.state(self.paraphraser.encoder))


class _Paraphraser(nnx.Module):
  """An autoencoder of the teacher's features; the code is the factor."""

  def __init__(self, width: int, factor_width: int, *, rngs: nnx.Rngs):
    self.encoder = _Coder([width, width, factor_width, factor_width], rngs=rngs)
    # With stride 1 a transposed convolution is a convolution.
    self.decoder = _Coder([factor_width, factor_width, width, width], rngs=rngs)

  def reconstruct(self, x: Array) -> Array:
    return self.decoder(self.encoder(x))


class _Coder(nnx.Module):
  """3x3 convolutions, each with LeakyReLU(0.1) behind it."""

  def __init__(
    self,
    widths: Sequence[int],
    *,
    rngs: nnx.Rngs,
    norm: bool = False,
  ):
    def layer(inputs: int, outputs: int) -> Any:
      options: dict[str, Any] = {
        "kernel_init": layers.TORCH_DEFAULT,
        "rngs": rngs,
      }
      if norm:
        return layers.ConvNorm(inputs, outputs, 3, **options)
      return layers.convolution(inputs, outputs, 3, use_bias=True, **options)

    self.layers = nnx.List(map(layer, widths[:-1], widths[1:]))

  def __call__(self, x: Array) -> Array:
    for layer in self.layers:
      x = nnx.leaky_relu(layer(x), 0.1)
    return x


def _build(rate: float) -> Any:
  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(last_maps, student, teacher)
    return _Factors(
      ours.shape[-1],
      theirs.shape[-1],
      max(1, int(rate * theirs.shape[-1])),
      rngs=rngs,
    )

  return build


ROWS = {
  "ft": row(
    "features",
    "Factor transfer, Kim 2018",
    "matches an autoencoder's code of the teacher's last map",
    _ft,
    weight=200.0,
    initialization=_ft_initialization,
    initialization_epochs=30,
    source=REPDISTILLER,
  ),
}
