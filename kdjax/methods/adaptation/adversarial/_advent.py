"""Adversarial entropy minimization of segmentations (ADVENT)."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.adaptation._row_kinds import row
from kdjax.methods.adaptation.adversarial._players import frozen


def _advent(
  *,
  weight: ArrayLike = 0.001,
  hidden: Sequence[int] = (64, 128, 256, 512),
) -> Objective:
  """A discriminator of patches of both domains' `self_information` maps.

  Discriminator and student take one step at a time. `hidden` are the channels
  of its convolutions of 4x4 and stride 2; one with a single channel follows.
  The student's logits are maps, `[batch, height, width, classes]`.
  """

  def build(logits: Any, rngs: nnx.Rngs) -> nnx.Module:
    if len(logits.shape) != 4:
      raise ValueError(
        f"advent: the logits have the shape {logits.shape}; expected maps, "
        "[batch, height, width, classes]."
      )
    return _Patches((logits.shape[-1], *hidden, 1), rngs)

  def loss(
    discriminator: Any,
    source_logits: Array,
    target_logits: Array,
    where_source: Array,
    where_target: Array,
    *,
    weight: Array,
    axis_name: str | None,
  ) -> Array:
    maps = (
      adaptation.self_information(source_logits),
      adaptation.self_information(target_logits),
    )
    told = [discriminator(x) for x in jax.lax.stop_gradient(maps)]
    patches = [
      _over_patches(mask, x)
      for mask, x in zip((where_source, where_target), told, strict=True)
    ]
    fooled = adaptation.adda_loss(frozen(discriminator)(maps[1]).reshape(-1))
    return adaptation.dann_loss(
      *(x.reshape(-1) for x in told),
      scaling="mean",
      where_source=patches[0],
      where_target=patches[1],
      axis_name=axis_name,
    ) + weight * ops.masked_mean(fooled, patches[1], axis_name=axis_name)

  return modular(build, loss, weight=weight)


class _Patches(nnx.Module):
  """DCGAN's discriminator, one logit a patch."""

  def __init__(self, widths: Sequence[int], rngs: nnx.Rngs):
    self.layers = nnx.List(
      nnx.Conv(a, b, (4, 4), strides=2, rngs=rngs)
      for a, b in itertools.pairwise(widths)
    )

  def __call__(self, x: Array) -> Array:
    *hidden, last = self.layers
    for layer in hidden:
      x = nnx.leaky_relu(layer(x), 0.2)
    return last(x)[..., 0]


def _over_patches(mask: Array, patches: Array) -> Array:
  """Which patches are of an example that counts."""
  rows = jnp.any(mask.reshape(mask.shape[0], -1), 1)
  return jnp.broadcast_to(rows[:, None, None], patches.shape).reshape(-1)


ROWS = {
  "advent": row(
    "ADVENT",
    "entropy maps of both domains look alike (segmentation)",
    _advent,
    weight=0.001,
    source="authors",
  ),
}
