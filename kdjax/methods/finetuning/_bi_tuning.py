"""Bi-Tuning: contrastive losses on both sides, with queues of keys."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import finetuning, ops
from kdjax.methods._method import Method
from kdjax.methods._modular import modular
from kdjax.methods.finetuning._row_kinds import row
from kdjax.methods.optimizers._parameter_ema import with_average
from kdjax.nets import layers


def _bi_tuning(
  num_classes: int,
  *,
  dim: int = 128,
  size: int = 40,
  temperature: ArrayLike = 0.07,
  momentum: ArrayLike = 0.999,
) -> Method:
  r"""Bi-Tuning: contrastive losses on both sides, with queues of keys.

  .. math:: \ell = \ell_\mathrm{CCE} + \ell_\mathrm{CCL}

  of `kdjax.finetuning.contrastive_cross_entropy_loss`, on the student's
  classifier, and of `kdjax.finetuning.categorical_contrastive_loss`, on
  a linear projector's side.

  Args:
    num_classes: of the target.
    dim: the width of the projections.
    size: how many keys of each class a queue holds.
    temperature: tau > 0.
    momentum: the share of its old value that the projector of the keys keeps.
      It moves towards the student's before the keys are computed, as in TLlib.

  Returns:
    A method; its published weight is 1, beside the cross-entropy. The role
    `"average"` is the momentum encoder, which the optimizer keeps by
    `parameter_ema(momentum)`, unless it keeps an average already.

  Raises:
    ValueError: if a number is out of range; from `init` or `apply`, if a
      network has no embedding or the student no classifier.
    TypeError: if a number of classes, units or keys is no integer.

  The projector is linear, as in TLlib. As there, the keys of a batch join the
  classifier's queue before its loss, and the projector's after.

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  for name, value in (
    ("num_classes", num_classes),
    ("dim", dim),
    ("size", size),
  ):
    ops.check_integer(f"bi_tuning: {name}", value, 1)
  ops.check_positive("bi_tuning: temperature", temperature)
  ops.check_range("bi_tuning: momentum", momentum, 0.0, 1.0)

  def build(student_embedding: Any, rngs: nnx.Rngs) -> nnx.Module:
    width = student_embedding.shape[-1]
    return _Queues(width, num_classes, dim, size, rngs)

  def loss(
    module: Any,
    student_embedding: Array,
    student_classifier: Any,
    average_embedding: Array,
    labels: Array,
    where: Array,
    *,
    temperature: Array,
    momentum: Array,
    axis_name: str | None,
  ) -> Array:
    kernel, bias = student_classifier
    module.follow(momentum)
    keys = _project(
      module.average_kernel, module.average_bias, average_embedding
    )
    before = module.projections[...]
    encoded = finetuning.homogeneous_directions(average_embedding)
    module.enqueue(encoded, keys, labels, where, axis_name)
    projector_side = finetuning.categorical_contrastive_loss(
      _project(module.kernel, module.bias, student_embedding),
      keys,
      labels,
      before,
      temperature=temperature,
    )
    classifier_side = finetuning.contrastive_cross_entropy_loss(
      finetuning.homogeneous_directions(student_embedding),
      labels,
      module.features[...],
      finetuning.homogeneous_directions(kernel.T, bias),
      temperature=temperature,
    )
    return projector_side + classifier_side

  objective = modular(build, loss, temperature=temperature, momentum=momentum)
  return Method(objective, optimizer=with_average(momentum))


class _Queues(nnx.Module):
  """The projector, its moving average and the keys of both sides."""

  def __init__(
    self, width: int, num_classes: int, dim: int, size: int, rngs: nnx.Rngs
  ):
    start = nnx.to_pure_dict(nnx.state(layers.linear(width, dim, rngs=rngs)))
    self.kernel, self.bias = map(nnx.Param, (start["kernel"], start["bias"]))
    self.average_kernel = nnx.Variable(start["kernel"])
    self.average_bias = nnx.Variable(start["bias"])
    features = finetuning.key_queue_init(
      rngs(), num_classes, width + 1, size=size
    )
    projections = finetuning.key_queue_init(rngs(), num_classes, dim, size=size)
    self.features = nnx.Variable(features.keys)
    self.projections = nnx.Variable(projections.keys)
    self.position = nnx.Variable(features.position)

  def follow(self, momentum: Array) -> None:
    """The average of the projector moves towards it; it has no gradient."""
    for average, new in (
      (self.average_kernel, self.kernel),
      (self.average_bias, self.bias),
    ):
      new = jax.lax.stop_gradient(new[...])
      average[...] = momentum * average[...] + (1 - momentum) * new

  def enqueue(
    self,
    features: Array,
    projections: Array,
    labels: Array,
    where: Array,
    axis_name: str | None,
  ) -> None:
    position = self.position[...]
    for queue, keys in (
      (self.features, features),
      (self.projections, projections),
    ):
      new = finetuning.key_queue_update(
        finetuning.KeyQueue(queue[...], position),
        keys,
        labels,
        where=where,
        axis_name=axis_name,
      )
      queue[...], self.position[...] = new


def _project(
  kernel: nnx.Variable, bias: nnx.Variable, embeddings: Array
) -> Array:
  rows = embeddings @ kernel[...] + bias[...][None]
  norm = ops.safe_norm(rows, keepdims=True)
  return rows / jnp.where(norm == 0, 1.0, norm)


ROWS = {
  "bi_tuning": row(
    "Bi-Tuning",
    "contrastive losses of the classifier and of a projector, with queues",
    _bi_tuning,
    networks=("average",),
    source="TLlib",
  ),
}
