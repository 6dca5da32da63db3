"""Semantic calibration (SemCKD)."""

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


def _semckd(*, samples: int = 64) -> Objective:
  r"""SemCKD: all pairs of layers, softly weighted.

  .. math::
    \ell = \frac{1}{S} \sum_{st} \alpha_{st} \operatorname{mean}_{hwc}
      (R_{st}(F^S_s) - F^T_t)^2, \qquad
    \alpha_s = \operatorname{softmax}_t(q_s \cdot k_t)

  for each example, over all stages without the stems. R are regressors
  (convolutions 1x1, 3x3, 1x1 with batch normalization and ReLU between them)
  to the teacher's channels; of maps of unequal size the larger is averaged to
  the smaller. Queries and keys are embeddings, of norm 1, of the similarities
  between the example and the others of the batch in that layer. The published
  weight on ImageNet is 50.

  Departs from the authors' code: there the embedding sees an example's inner
  products with the batch, in the order of the batch, so that only batches of
  one size, 64, can be used and the last one is dropped. Here it sees `samples`
  quantiles of them, which any batch has in any order.

  References:
    Chen et al., `Cross-layer distillation with semantic calibration
    <https://arxiv.org/abs/2012.03236>`_, 2021.
  """
  ops.check_integer("samples", samples, 4)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(all_stages, student, teacher)
    return nnx.Dict(
      queries=nnx.List([_Embedding(samples, rngs) for _ in ours]),
      keys=nnx.List([_Embedding(samples, rngs) for _ in theirs]),
      regressors=nnx.List(
        [
          nnx.List([_Regressor(a.shape[-1], b.shape[-1], rngs) for b in theirs])
          for a in ours
        ]
      ),
    )

  def loss(
    parts: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    where: Any,
    *,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = all_stages(student, teacher)
    theirs = jax.lax.stop_gradient(theirs)

    def embed(embeddings: Any, maps: list[Array]) -> Array:
      described = [_similarities(x, samples, where, axis_name) for x in maps]
      rows = zip(embeddings, described, strict=True)
      return jnp.stack([embedding(x) for embedding, x in rows], 1)

    scores = jnp.einsum(
      "bsd,btd->bst",
      embed(parts["queries"], ours),
      embed(parts["keys"], theirs),
    )
    distances = jnp.stack(
      [
        jnp.stack(
          [
            _distance(regressor, *ops.pool_to_smaller(a, b))
            for regressor, b in zip(regressors, theirs, strict=True)
          ],
          -1,
        )
        for regressors, a in zip(parts["regressors"], ours, strict=True)
      ],
      1,
    )
    weighted = jnp.sum(nnx.softmax(scores, -1) * distances, -1)
    return jnp.mean(weighted, -1)

  return modular(build, loss)


class _Embedding(nnx.Module):
  """A vector of norm 1 for an example's similarities in a layer."""

  def __init__(self, samples: int, rngs: nnx.Rngs):
    self.first = layers.linear(samples, samples // 2, rngs=rngs)
    self.second = layers.linear(samples // 2, samples // 4, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return ops.normalize_as_torch(self.second(nnx.relu(self.first(x))))


class _Regressor(nnx.Module):
  """From a student's map to a teacher's channels."""

  def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
    hidden = 2 * outputs
    options: dict[str, Any] = {
      "kernel_init": layers.TORCH_DEFAULT,
      "rngs": rngs,
    }
    self.layers = nnx.List(
      [
        layers.ConvNorm(inputs, hidden, 1, **options),
        layers.ConvNorm(hidden, hidden, 3, **options),
      ]
    )
    self.last = layers.convolution(hidden, outputs, 1, **options)

  def __call__(self, x: Array) -> Array:
    return self.last(layers.activate(self.layers, x)[1])


def _distance(regressor: Any, ours: Array, theirs: Array) -> Array:
  return distillation.hint_loss(regressor(ours), theirs)


def _similarities(
  maps: Array, samples: int, where: Any, axis_name: str | None
) -> Array:
  """Quantiles of each example's inner products with those that count."""
  rows = maps.reshape(maps.shape[0], -1)
  columns = ops.gather_batch(rows, axis_name)
  counts = ops.gather_batch(where, axis_name)
  products = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
  products = jnp.sort(jnp.where(counts[None], products, jnp.inf), -1)
  count = jnp.sum(counts)
  last = jnp.maximum(count - 1, 0)
  # Masked products are sorted behind the last one, and never read.
  products = jnp.where(jnp.arange(len(counts))[None] < count, products, 0.0)
  position = jnp.linspace(0.0, 1.0, samples) * last
  below = jnp.floor(position).astype(int)
  share = (position - below)[None]
  above = jnp.minimum(below + 1, last)
  return products[:, below] * (1 - share) + products[:, above] * share


ROWS = {
  "semckd": row(
    "features",
    "Semantic calibration, Chen 2021",
    "pairs the layers of both networks by learned attention",
    _semckd,
    weight=400.0,
    kd=1.0,
    source="SemCKD, README.md",
  ),
}
