"""Which of the teacher's layers a student's layer listens to, learned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax.distillation import hint_loss
from kdjax.distillation._feature_pairs import unit
from kdjax.nets import Outputs
from kdjax.nets import _layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._stages import maps_of
from kdjax.objectives._stages import matched_stages
from kdjax.ops import gather_batch
from kdjax.ops._resizing import adaptive_mean_pool
from kdjax.ops._resizing import to_smaller
from kdjax.ops._validation import check_integer


def semckd(*, samples: int = 64) -> Objective:
  r"""Semantic calibration (SemCKD): all pairs of layers, softly weighted.

  .. math::
    \ell = \frac{1}{S} \sum_{st} \alpha_{st} \operatorname{mean}_{hwc}
      (R_{st}(F^S_s) - F^T_t)^2, \qquad
    \alpha_s = \operatorname{softmax}_t(q_s \cdot k_t)

  for each example, over all stages without the stems. R are regressors
  (convolutions 1x1, 3x3, 1x1 with batch normalization and ReLU between them)
  to the teacher's channels; of maps of unequal size the larger is averaged to
  the smaller. Queries and keys are embeddings, of norm 1, of how similar the
  example is to the others of the batch in that layer.

  Args:
    samples: how many numbers describe an example's similarities.

  Returns:
    An objective; its published weight is 400 on CIFAR-100 and 50 on ImageNet,
    beside the cross-entropy and KD.

  Raises:
    ValueError: if `samples` is below 4.
    TypeError: if `samples` is no integer.

  Differs from the published code: there the embedding sees an example's inner
  products with the batch, in the order of the batch, so that only batches of
  one size, 64, can be used and the last one is dropped. Here it sees
  `samples` quantiles of them, which any batch has in any order.

  References:
    Chen et al., `Cross-layer distillation with semantic calibration
    <https://arxiv.org/abs/2012.03236>`_, 2021.
  """
  check_integer("samples", samples, 4)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_all_maps, student, teacher)
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
    student: Outputs,
    teacher: Outputs,
    mask: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    ours, theirs = _all_maps(student, teacher)
    theirs = jax.lax.stop_gradient(theirs)

    def embed(embeddings: Any, maps: list[Array]) -> Array:
      described = [_similarities(x, samples, mask, axis_name) for x in maps]
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
            _distance(regressor, *to_smaller(a, b))
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


def afd(*, width: int = 128) -> Objective:
  r"""Attention-based feature distillation (AFD), of "Show, attend and distill".

  .. math::
    \ell = \sum_t \sum_s \alpha_{ts} \operatorname{mean}_{hw}
      (A(F^S_s) - A(F^T_t))^2, \qquad
    \alpha_t = \operatorname{softmax}_s
      \left( \frac{q_t^\top W_t k_s + p_t \cdot p_s}{\sqrt{d}} \right)

  for each example, over all stages without the stems. A is the mean over
  channels of the squares, averaged to the teacher's size, of norm 1. Queries
  and keys come from the maps' means over positions by a linear layer and batch
  normalization, keys by a ReLU too; p are learned for each layer.

  Args:
    width: d, of queries and keys.

  Returns:
    An objective; its published weight is 200, beside the cross-entropy and
    KD.

  Raises:
    ValueError: if `width` is below 1.
    TypeError: if `width` is no integer.

  The published code takes a map from every residual block; here it is every
  feature that a network returns. Another method is known as AFD, attention
  feature distillation (Wang et al., 2020); this is not it.

  References:
    Ji, Heo and Park, `Show, attend and distill: knowledge distillation via
    attention-based feature matching <https://arxiv.org/abs/2102.02973>`_, 2021.
  """
  check_integer("width", width, 1)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_all_maps, student, teacher)

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

  def loss(parts: Any, student: Outputs, teacher: Outputs) -> Array:
    ours, theirs = _all_maps(student, teacher)
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
            hint_loss(_energy(a, b.shape[1:3]), _energy(b, b.shape[1:3]))
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


class _Embedding(nnx.Module):
  """A vector of norm 1 for an example's similarities in a layer."""

  def __init__(self, samples: int, rngs: nnx.Rngs):
    self.first = _layers.linear(samples, samples // 2, rngs=rngs)
    self.second = _layers.linear(samples // 2, samples // 4, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return unit(self.second(nnx.relu(self.first(x))))


class _Regressor(nnx.Module):
  """From a student's map to a teacher's channels."""

  def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
    hidden = 2 * outputs
    options: dict[str, Any] = {
      "kernel_init": _layers.TORCH_DEFAULT,
      "rngs": rngs,
    }
    self.layers = nnx.List(
      [
        _layers.ConvNorm(inputs, hidden, 1, **options),
        _layers.ConvNorm(hidden, hidden, 3, **options),
      ]
    )
    self.last = _layers.convolution(hidden, outputs, 1, **options)

  def __call__(self, x: Array) -> Array:
    return self.last(_layers.activate(self.layers, x)[1])


class _LinearNorm(nnx.Module):
  """A linear layer and batch normalization."""

  def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
    # Batch normalization takes a bias away.
    self.linear = _layers.linear(inputs, outputs, use_bias=False, rngs=rngs)
    self.norm = _layers.batch_norm(outputs, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return self.norm(self.linear(x))


def _all_maps(
  student: Outputs, teacher: Outputs
) -> tuple[list[Array], list[Array]]:
  """All stages of each network, of which there may be unequally many."""
  ours, theirs = (
    maps_of(role, x, "features", [name for name, _ in matched_stages(x, x)])
    for role, x in (("student", student), ("teacher", teacher))
  )
  return ours, theirs


def _distance(regressor: Any, ours: Array, theirs: Array) -> Array:
  return hint_loss(regressor(ours), theirs)


def _similarities(
  maps: Array, samples: int, mask: Array, axis_name: str | None
) -> Array:
  """Quantiles of each example's inner products with those that count."""
  rows = maps.reshape(maps.shape[0], -1)
  columns = gather_batch(rows, axis_name)
  counts = gather_batch(mask, axis_name)
  products = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
  products = jnp.sort(jnp.where(counts[None], products, jnp.inf), -1)
  count = jnp.sum(counts)
  last = jnp.maximum(count - 1, 0)
  # What is masked is sorted behind the last one, and never looked at.
  products = jnp.where(jnp.arange(len(counts))[None] < count, products, 0.0)
  position = jnp.linspace(0.0, 1.0, samples) * last
  below = jnp.floor(position).astype(int)
  share = (position - below)[None]
  above = jnp.minimum(below + 1, last)
  return products[:, below] * (1 - share) + products[:, above] * share


def _energy(maps: Array, size: tuple[int, ...]) -> Array:
  """The mean of the squares over channels, of a size, of norm 1."""
  energy = jnp.mean(jnp.square(maps), -1, keepdims=True)
  pooled = adaptive_mean_pool(energy, (size[0], size[1]))
  return unit(pooled.reshape(maps.shape[0], -1))
