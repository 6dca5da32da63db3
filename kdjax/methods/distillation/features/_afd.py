"""Attention-based feature distillation (AFD)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import all_stages
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _afd(*, width: int = 128) -> Objective:
  r"""AFD of "Show, attend and distill".

  .. math::
    \ell = \sum_t \sum_s \alpha_{ts} \operatorname{mean}_{hw}
      (A(F^S_s) - A(F^T_t))^2, \qquad
    \alpha_t = \operatorname{softmax}_s
      \left( \frac{q_t^\top W_t k_s + p_t \cdot p_s}{\sqrt{d}} \right)

  for each example, over all stages without the stems; d is `width`. A is the
  mean over channels of the squares, averaged to the teacher's size, of norm 1.
  Queries and keys come from the maps' means over positions by a linear layer
  and batch normalization, keys by a ReLU too; p are learned for each layer.
  Attention feature distillation (Wang et al., 2020) is another method.

  Departs from the authors' code: there the maps are those of every residual
  block, here every feature that a network returns.

  References:
    Ji, Heo and Park, `Show, attend and distill: knowledge distillation via
    attention-based feature matching <https://arxiv.org/abs/2102.02973>`_, 2021.
  """
  ops.check_integer("width", width, 1)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(all_stages, student, teacher)

    def layer(inputs: int, outputs: int) -> nnx.Module:
      return _LinearNorm(inputs, outputs, rngs)

    init = nnx.initializers.glorot_normal()
    return nnx.Dict(
      keys=nnx.List([layer(x.shape[-1], width) for x in ours]),
      queries=nnx.List([layer(x.shape[-1], width) for x in theirs]),
      bilinear=layer(width, width * len(theirs)),
      key_positions=nnx.Param(init(rngs.params(), (len(ours), width))),
      query_positions=nnx.Param(init(rngs.params(), (len(theirs), width))),
    )

  def loss(parts: Any, student: nets.Outputs, teacher: nets.Outputs) -> Array:
    ours, theirs = all_stages(student, teacher)
    theirs = jax.lax.stop_gradient(theirs)

    def means(layers: Any, maps: list[Array]) -> Array:
      rows = zip(layers, maps, strict=True)
      return jnp.stack([layer(x.mean((1, 2))) for layer, x in rows], 1)

    keys = nnx.relu(means(parts["keys"], ours))
    rows = keys.shape[0]
    keys = parts["bilinear"](keys.reshape(rows * len(ours), width))
    keys = keys.reshape(rows, len(ours), len(theirs), width)
    queries = means(parts["queries"], theirs)
    positions = parts["query_positions"][...] @ parts["key_positions"][...].T
    scores = jnp.einsum("bstd,btd->bts", keys, queries) + positions[None]
    attention = nnx.softmax(scores / width**0.5, -1)
    distances = jnp.stack(
      [
        jnp.stack(
          [
            distillation.hint_loss(
              _energy(a, b.shape[1:3]), _energy(b, b.shape[1:3])
            )
            for a in ours
          ],
          -1,
        )
        for b in theirs
      ],
      1,
    )
    return jnp.sum(attention * distances, (1, 2))

  return modular(build, loss)


class _LinearNorm(nnx.Module):
  """A linear layer and batch normalization."""

  def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
    # Batch normalization takes a bias away.
    self.linear = layers.linear(inputs, outputs, use_bias=False, rngs=rngs)
    self.norm = layers.batch_norm(outputs, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return self.norm(self.linear(x))


def _energy(maps: Array, size: tuple[int, ...]) -> Array:
  """The mean of the squares over channels, of a size, of norm 1."""
  energy = jnp.mean(jnp.square(maps), -1, keepdims=True)
  pooled = ops.adaptive_mean_pool(energy, (size[0], size[1]))
  return ops.normalize_as_torch(pooled.reshape(maps.shape[0], -1))


ROWS = {
  "afd": row(
    "features",
    "Attention-based feature distillation, Ji 2021",
    "pairs attention maps of all layers by learned attention",
    _afd,
    weight=200.0,
    kd=0.9,
    source="AFD, README.md and main.py",
  ),
}
