"""One-for-all (OFA): each stage of the student learns to classify."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import as_map, last_feature, matched_stages
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers

_FINAL_GRID = 7


_HEADS = 4


_NARROW = nnx.initializers.truncated_normal(0.02)


def _ofa(*, eps: ArrayLike = 1.5) -> Objective:
  """By `kdjax.distillation.ofa_loss`, of the logits and those of each stage.

  It compares logits only, so teacher and student may be of different kinds. A
  stage of a CNN, other than the stem, goes through one separable convolution of
  stride 2 for each deeper stage (a 1x1 convolution for the deepest), the mean
  over positions and a linear classifier; units of an MLP are a map of one
  position. Tokens go through as many transformer blocks as there are deeper
  stages, at least one, and a classifier on the class token, or on the mean if
  there is none; grids of 14 and more are merged by 2x2 patches first. Of more
  than four layers of tokens those at 1/6, 1/3, 5/6 and the end count. The
  authors' code has `eps` 1; its example (ResNet-18 from DeiT-Ti) takes 1.5.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    classes = student.logits.shape[-1]
    names = _stage_names(student)
    width = max(_width(student), _width(teacher))
    heads: list[nnx.Module] = []
    for deeper, name in zip(reversed(range(len(names))), names, strict=True):
      shape = student.features[name].shape
      if len(shape) == 3:
        head = _TokenHead(shape[1], shape[2], max(deeper, 1), classes, rngs)
      else:
        head = _MapHead(shape[-1], width, deeper, classes, rngs)
      heads.append(head)
    return nnx.List(heads)

  def loss(
    heads: Any,
    student: nets.Outputs,
    teacher_logits: Any,
    labels: Any,
    *,
    eps: Array,
  ) -> Array:
    total = distillation.ofa_loss(
      student.logits, teacher_logits, labels, eps=eps
    )
    for head, name in zip(heads, _stage_names(student), strict=True):
      logits = head(student.features[name])
      total += distillation.ofa_loss(logits, teacher_logits, labels, eps=eps)
    return total

  return modular(build, loss, eps=eps)


class _MapHead(nnx.Module):
  """Halves a map as often as asked, then classifies its mean."""

  def __init__(
    self,
    channels: int,
    width: int,
    halvings: int,
    classes: int,
    rngs: nnx.Rngs,
  ):
    def separable(inputs: int, outputs: int, stride: int) -> list[nnx.Module]:
      return [
        layers.convolution(
          inputs, inputs, 3, stride=stride, groups=inputs, rngs=rngs
        ),
        layers.ConvNorm(inputs, outputs, 1, rngs=rngs),
        _Relu(),
      ]

    steps: list[nnx.Module] = []
    for i in range(halvings):
      steps += separable(channels, channels, 2)
      outputs = width if i == halvings - 1 else 2 * channels
      steps += separable(channels, outputs, 1)
      channels = outputs
    if not halvings:
      steps.append(
        layers.convolution(channels, width, 1, use_bias=True, rngs=rngs)
      )
    self.layers = nnx.List(steps)
    self.classifier = layers.classifier(
      width, classes, kernel_init=_NARROW, rngs=rngs
    )

  def __call__(self, feature: Array) -> Array:
    x = as_map(feature)
    for layer in self.layers:
      x = layer(x)
    return self.classifier(layers.global_mean(x))


class _Relu(nnx.Module):
  """The rectifier as a layer."""

  def __call__(self, x: Array) -> Array:
    return nnx.relu(x)


class _TokenHead(nnx.Module):
  """Merges patches, mixes tokens, then classifies the class token."""

  def __init__(
    self, tokens: int, width: int, depth: int, classes: int, rngs: nnx.Rngs
  ):
    side = math.isqrt(tokens)
    # A class and a distillation token at most; else there is no grid.
    self.class_tokens = tokens - side**2 if tokens - side**2 <= 2 else 0
    is_grid = tokens == side**2 + self.class_tokens
    merges = []
    while is_grid and side >= 2 * _FINAL_GRID and side % 2 == 0:
      side //= 2
      # As published: the last one is linear unless it is the only one.
      activated = not merges or side >= 2 * _FINAL_GRID
      merges.append(_Merge(width, activated, rngs))
    self.merges = nnx.List(merges)
    self.blocks = nnx.List([_Block(width, rngs) for _ in range(depth)])
    self.classifier = layers.classifier(
      width, classes, kernel_init=_NARROW, rngs=rngs
    )

  def __call__(self, tokens: Array) -> Array:
    first, patches = jnp.split(tokens, [self.class_tokens], axis=1)
    for merge in self.merges:
      patches = merge(patches)
    x = jnp.concatenate([first, patches], 1)
    for block in self.blocks:
      x = block(x)
    seen = x[:, : self.class_tokens] if self.class_tokens else x
    return self.classifier(jnp.mean(seen, 1))


class _Merge(nnx.Module):
  """Makes one token of each 2x2 patch of a square grid."""

  def __init__(self, width: int, activated: bool, rngs: nnx.Rngs):
    self.norm = nnx.LayerNorm(4 * width, epsilon=1e-5, rngs=rngs)
    self.reduce = _linear(4 * width, width, rngs, use_bias=False)
    self.activated = activated

  def __call__(self, patches: Array) -> Array:
    batch, count, width = patches.shape
    half = math.isqrt(count) // 2
    x = patches.reshape(batch, half, 2, half, 2, width).swapaxes(2, 3)
    x = self.reduce(self.norm(x.reshape(batch, half**2, 4 * width)))
    return nnx.gelu(x, approximate=False) if self.activated else x


class _Block(nnx.Module):
  """A transformer block with the normalizations first."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
    self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
    self.queries, self.keys, self.values = (
      _linear(width, width, rngs, use_bias=False) for _ in range(3)
    )
    self.project = _linear(width, width, rngs)
    self.expand = _linear(width, 4 * width, rngs)
    self.contract = _linear(4 * width, width, rngs)

  def __call__(self, x: Array) -> Array:
    batch, tokens, width = x.shape
    normed = self.norm1(x)
    heads = math.gcd(width, _HEADS)
    mixed = jax.nn.dot_product_attention(
      *(
        layer(normed).reshape(batch, tokens, heads, width // heads)
        for layer in (self.queries, self.keys, self.values)
      )
    )
    x = x + self.project(mixed.reshape(x.shape))
    inside = nnx.gelu(self.expand(self.norm2(x)), approximate=False)
    return x + self.contract(inside)


def _linear(
  inputs: int, outputs: int, rngs: nnx.Rngs, **options: Any
) -> nnx.Linear:
  return nnx.Linear(inputs, outputs, kernel_init=_NARROW, rngs=rngs, **options)


def _width(outputs: Any) -> int:
  """The width of the classifier's input; 0 if there are logits only."""
  if outputs.embedding is not None:
    return outputs.embedding.shape[-1]
  if outputs.features:
    return last_feature("network", outputs).shape[-1]
  return 0


def _stage_names(student: Any) -> list[str]:
  """Returns the stages' names, from shallow to deep."""
  names = sorted(student.features)
  if names and student.features[names[0]].ndim == 3:
    # Tokens have no stem, and more layers than there are stages.
    count = len(names)
    places = {max(round(share * count / 6), 1) - 1 for share in (1, 2, 5, 6)}
    return [names[place] for place in sorted(places)]
  return [ours for ours, _ in matched_stages(student, student)]


ROWS = {
  "ofa": row(
    "logits",
    "One-for-all, Hao 2023",
    "gives each stage of the student a classifier that learns the teacher's "
    "logits",
    _ofa,
    source="OFAKD, train.py and README.md",
  ),
}
