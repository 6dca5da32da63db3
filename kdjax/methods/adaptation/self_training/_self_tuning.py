"""Self-tuning: a pseudo-label is a group of keys to be near to."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._method import Method, Pass
from kdjax.methods._modular import modular
from kdjax.methods.adaptation._row_kinds import BOTH, row
from kdjax.methods.optimizers._parameter_ema import with_average
from kdjax.nets import layers


def _self_tuning(
  num_classes: int,
  *,
  dims: int = 1024,
  size: int = 32,
  temperature: ArrayLike = 0.07,
  momentum: ArrayLike = 0.999,
  decay: ArrayLike = 0.999,
) -> Method:
  """`kdjax.adaptation.self_tuning_loss` of source and target.

  The keys of the source join the queue before the target's loss, whose labels
  are the student's own predictions. Keys are projections of another view,
  `"other"`, by the student's average; `momentum` is that of the projector's
  average. `size` keys of each class are kept.
  """

  def build(embedding: Any, rngs: nnx.Rngs) -> nnx.Module:
    return _Projectors(embedding.shape[-1], num_classes, dims, size, rngs)

  def loss(
    module: Any,
    source_embedding: Array,
    source_other_embedding: Array,
    source_labels: Array,
    where_source: Array,
    target_embedding: Array,
    target_other_embedding: Array,
    target_logits: Array,
    where_target: Array,
    *,
    temperature: Array,
    momentum: Array,
    axis_name: str | None,
  ) -> Array:
    module.follow(momentum)
    predicted = jnp.argmax(target_logits, -1)
    value = jnp.zeros(())
    for queries, keys, labels, mask in (
      (source_embedding, source_other_embedding, source_labels, where_source),
      (target_embedding, target_other_embedding, predicted, where_target),
    ):
      keys = module.keys_of(keys)
      losses = adaptation.self_tuning_loss(
        module.queries_of(queries),
        keys,
        labels,
        module.queue,
        temperature=temperature,
      )
      value += ops.masked_mean(losses, mask, axis_name=axis_name)
      # A negative label leaves its key out.
      rows = keys, jnp.where(mask, labels, -1)
      module.enqueue(*(ops.gather_batch(x, axis_name) for x in rows))
    return value

  objective = modular(build, loss, temperature=temperature, momentum=momentum)
  passes = {
    f"{domain}_other": Pass("average", f"{domain}.other") for domain in BOTH
  }
  return Method(objective, passes=passes, optimizer=with_average(decay))


class _Projectors(nnx.Module):
  """A linear projector, its moving average and the queue of keys."""

  def __init__(
    self, width: int, num_classes: int, dims: int, size: int, rngs: nnx.Rngs
  ):
    start = nnx.to_pure_dict(nnx.state(layers.linear(width, dims, rngs=rngs)))
    self.kernel, self.bias = map(nnx.Param, (start["kernel"], start["bias"]))
    self.average_kernel = nnx.Variable(start["kernel"])
    self.average_bias = nnx.Variable(start["bias"])
    queue = adaptation.self_tuning_init(
      rngs(), num_classes=num_classes, dims=dims, size=size
    )
    self.keys, self.position = map(nnx.Variable, queue)

  def follow(self, momentum: Array) -> None:
    """The average of the projector moves towards it; it has no gradient."""
    for average, new in (
      (self.average_kernel, self.kernel),
      (self.average_bias, self.bias),
    ):
      new = jax.lax.stop_gradient(new[...])
      average[...] = momentum * average[...] + (1 - momentum) * new

  def queries_of(self, embeddings: Array) -> Array:
    return _unit(embeddings @ self.kernel[...] + self.bias[...][None])

  def keys_of(self, embeddings: Array) -> Array:
    kernel, bias = self.average_kernel[...], self.average_bias[...]
    return jax.lax.stop_gradient(_unit(embeddings @ kernel + bias[None]))

  @property
  def queue(self) -> adaptation.SelfTuningQueue:
    return adaptation.SelfTuningQueue(self.keys[...], self.position[...])

  def enqueue(self, keys: Array, labels: Array) -> None:
    queue = adaptation.self_tuning_update(self.queue, keys, labels)
    self.keys[...], self.position[...] = queue


def _unit(rows: Array) -> Array:
  norm = ops.safe_norm(rows, keepdims=True)
  return rows / jnp.where(norm == 0, 1.0, norm)


ROWS = {
  "self_tuning": row(
    "self-tuning",
    "a pseudo-label is a group of keys to be near to",
    _self_tuning,
    networks=("average",),
    views=("other",),
  ),
}
