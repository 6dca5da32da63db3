"""ViTKD: tokens of a vision transformer."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.methods.distillation.features._mgd import (
  Generation,
  batch_uniform,
)
from kdjax.nets import layers


def _vitkd(
  *,
  alpha: ArrayLike = 3e-5,
  beta: ArrayLike = 3e-6,
  mask_ratio: ArrayLike = 0.5,
) -> Objective:
  r"""By `kdjax.distillation.vitkd_loss`: mimic low layers, generate the last.

  .. math::
    \ell = \alpha \sum_{l = 1, 2} \lVert P_l h^S_l - h^T_l \rVert^2
         + \frac{\beta}{\lambda} \sum_{n \text{ masked}}
           \lVert G(M \odot P h^S_L)_n - h^T_{L,n} \rVert^2

  of the patches' tokens of the first two features, by a linear layer each, and
  of the last one. Of that a share lambda, `mask_ratio`, of the tokens, drawn
  for each example, is replaced by one learned token before two 3x3 convolutions
  over the grid of patches, with a ReLU between them, generate the teacher's.
  Between equal widths there are no linear layers.

  Departs from the authors' code: the last feature is taken as the network gives
  it; there the final normalization comes before.
  """
  ops.check_positive("mask_ratio", mask_ratio)
  ops.check_range("mask_ratio", mask_ratio, 0.0, 1.0)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_patches, student, teacher)
    pairs = zip(ours, theirs, strict=True)
    widths = [(a.shape[-1], b.shape[-1]) for a, b in pairs]
    outputs = widths[-1][1]
    projectors = [
      layers.linear(*pair, rngs=rngs)
      for pair in widths
      if any(a != b for a, b in widths)
    ]
    return nnx.Dict(
      projectors=nnx.List(projectors),
      token=nnx.Param(jnp.zeros((1, 1, outputs))),
      generation=Generation(outputs, rngs),
    )

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    alpha: Array,
    beta: Array,
    mask_ratio: Array,
    key: Array,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = _patches(student, teacher)
    if parts["projectors"]:
      projected = zip(parts["projectors"], ours, strict=True)
      ours = [project(tokens) for project, tokens in projected]
    *low, last = ours
    *low_teacher, last_teacher = theirs
    mimicking = sum(map(distillation.vitkd_loss, low, low_teacher))
    rows, tokens, width = last.shape
    noise = batch_uniform(key, (rows, tokens), axis_name)
    rank = jnp.argsort(jnp.argsort(noise, 1), 1)
    masked = rank >= jnp.floor(tokens * (1 - mask_ratio))
    last = jnp.where(masked[..., None], parts["token"][...], last)
    side = math.isqrt(tokens)
    generated = parts["generation"](last.reshape(rows, side, side, width))
    generation = distillation.vitkd_loss(
      generated.reshape(rows, tokens, width), last_teacher, masked
    )
    return alpha * mimicking + beta / mask_ratio * generation

  return modular(
    build,
    loss,
    alpha=alpha,
    beta=beta,
    mask_ratio=mask_ratio,
  )


def _patches(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[list[Array], list[Array]]:
  """The patches' tokens of the first two features and of the last one."""
  sides = []
  for role, outputs in (("student", student), ("teacher", teacher)):
    names = sorted(outputs.features)
    chosen = [outputs.features[name] for name in [*names[:2], *names[-1:]]]
    if len(names) < 2 or any(x.ndim != 3 for x in chosen):
      shapes = [x.shape for x in chosen]
      raise ValueError(
        f"vitkd: {role} has features {shapes}; expected tokens [batch, "
        "tokens, width] of two layers or more."
      )
    sides.append([_without_prefix(x) for x in chosen])
  ours, theirs = sides
  if ours[-1].shape[1] != theirs[-1].shape[1]:
    raise ValueError(
      f"vitkd: student has {ours[-1].shape[1]} patches and teacher "
      f"{theirs[-1].shape[1]}; expected as many."
    )
  return ours, theirs


def _without_prefix(tokens: Array) -> Array:
  """Leaves out what precedes the largest square of patches."""
  count = tokens.shape[1]
  return tokens[:, count - math.isqrt(count) ** 2 :]


ROWS = {
  "vitkd": row(
    "tokens",
    "ViTKD, Yang 2022",
    "mimics the first layers of tokens and generates the last",
    _vitkd,
    source="cls_KD, deit-s3_distill_deit-t, of tokens",
  ),
}
