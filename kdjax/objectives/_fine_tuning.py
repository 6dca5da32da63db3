"""Fine-tuning with learnable parts: heads that stay, projectors, queues."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.distillation import soft_target_loss
from kdjax.finetuning import KeyQueue
from kdjax.finetuning import categorical_contrastive_loss
from kdjax.finetuning import co_tuning_loss
from kdjax.finetuning import contrastive_cross_entropy_loss
from kdjax.finetuning import enqueue_keys
from kdjax.finetuning import homogeneous_directions
from kdjax.finetuning import key_queue
from kdjax.nets import Outputs
from kdjax.nets import layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._stages import field_of
from kdjax.ops import check_integer
from kdjax.ops import check_positive
from kdjax.ops import check_range
from kdjax.ops import get_entry
from kdjax.ops import safe_norm


def co_tuning(
  relationship: Float[Array, "target_classes source_classes"],
  *,
  axis_name: str | None = None,
) -> Objective:
  """Co-Tuning: the pretrained head is trained on, beside the new one.

  The :func:`kdjax.finetuning.co_tuning_loss` of the old head on the student's
  embeddings. The teacher is the pretrained network; what is learned is by how
  much its head moves.

  Args:
    relationship: `[target_classes, source_classes]`, from
      :func:`kdjax.finetuning.co_tuning_targets`.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective; its published weight is 2.3, beside the cross-entropy of the
    new head.

  Raises:
    ValueError: from `init` or `apply`, if the student has no embedding or the
      teacher no classifier.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> objective = co_tuning(jnp.ones((2, 4)) / 4)
    >>> head = jnp.ones((8, 4)), jnp.zeros(4)
    >>> student = Outputs(jnp.ones((3, 2)), {}, jnp.ones((3, 8)))
    >>> teacher = Outputs(jnp.ones((3, 4)), {}, None, classifier=head)
    >>> params, state = objective.init(jax.random.key(0), student, teacher)
    >>> params["kernel"].shape
    (8, 4)

  References:
    You et al., `Co-Tuning for transfer learning
    <https://proceedings.neurips.cc/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html>`_,
    2020.
  """

  def loss(
    head: Any, student: Outputs, teacher: Outputs, batch: Any, *, relationship
  ) -> Array:
    labels = get_entry("co_tuning: batch", batch, "label")
    return co_tuning_loss(head(student, teacher), relationship[labels])

  return modular(
    _PretrainedHead, loss, axis_name=axis_name, relationship=relationship
  )


def lwf(
  *, temperature: ArrayLike = 3.0, axis_name: str | None = None
) -> Objective:
  """Learning without forgetting (LwF): the old task's answers are kept.

  The :func:`kdjax.distillation.soft_target_loss` of the old head, which is
  trained on, on the student's embeddings; the teacher is the pretrained
  network. Examples are those of the new task.

  Args:
    temperature: T > 0.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    An objective. Published weight: 4 at temperature 3 without the factor T^2
    (TLlib), that is 4 / 9 here, beside the cross-entropy of the new head.

  Raises:
    ValueError: if a static temperature is not above 0; from `init` or `apply`,
      if the student has no embedding or the teacher no classifier.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> objective = lwf(temperature=2.0)
    >>> head = jnp.ones((8, 4)), jnp.zeros(4)
    >>> student = Outputs(jnp.ones((3, 2)), {}, jnp.ones((3, 8)))
    >>> teacher = Outputs(jnp.ones((3, 4)), {}, None, classifier=head)
    >>> params, state = objective.init(jax.random.key(0), student, teacher)
    >>> state["hyperparameters"]
    {'temperature': Array(2., dtype=float32)}

  References:
    Li and Hoiem, `Learning without forgetting
    <https://arxiv.org/abs/1606.09282>`_, 2016.
  """
  check_positive("lwf: temperature", temperature)

  def loss(
    head: Any, student: Outputs, teacher: Outputs, batch: Any, *, temperature
  ) -> Array:
    del batch
    return soft_target_loss(
      head(student, teacher), teacher.logits, temperature=temperature
    )

  return modular(
    _PretrainedHead, loss, axis_name=axis_name, temperature=temperature
  )


def bi_tuning(
  num_classes: int,
  *,
  dim: int = 128,
  size: int = 40,
  temperature: ArrayLike = 0.07,
  momentum: ArrayLike = 0.999,
  axis_name: str | None = None,
) -> Objective:
  r"""Bi-Tuning: contrastive losses on both sides, with queues of keys.

  .. math:: \ell = \ell_\mathrm{CCE} + \ell_\mathrm{CCL}

  of :func:`kdjax.finetuning.contrastive_cross_entropy_loss`, on the student's
  classifier, and of :func:`kdjax.finetuning.categorical_contrastive_loss`, on
  a linear projector's side.

  Args:
    num_classes: of the target.
    dim: the width of the projections.
    size: how many keys of each class a queue holds.
    temperature: tau > 0.
    momentum: the share of its old value that the projector of the keys keeps.
      It moves towards the student's before the keys are computed, as in TLlib.
    axis_name: the mapped axis that holds the rest of the batch. Every device
      keeps the same queues.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy. Its
    `apply` expects as teacher the outputs of the momentum encoder, a moving
    average of the student that the caller keeps.

  Raises:
    ValueError: if a number is out of range; from `init` or `apply`, if a
      network has no embedding or the student no classifier.
    TypeError: if a number of classes, units or keys is no integer.

  The projector is linear, as in TLlib. As there, the keys of a batch join the
  classifier's queue before its loss, and the projector's after.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> objective = bi_tuning(3, dim=2, size=5)
    >>> outputs = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> params, state = objective.init(jax.random.key(0), outputs, outputs)
    >>> state["module"]["features"].shape
    (3, 5, 9)

  References:
    Zhong et al., `Bi-tuning of pre-trained representations
    <https://arxiv.org/abs/2011.06182>`_, 2020.
  """
  for name, value in (
    ("num_classes", num_classes),
    ("dim", dim),
    ("size", size),
  ):
    check_integer(f"bi_tuning: {name}", value, 1)
  check_positive("bi_tuning: temperature", temperature)
  check_range("bi_tuning: momentum", momentum, 0.0, 1.0)

  def build(student: Outputs, teacher: Outputs, rngs: nnx.Rngs) -> nnx.Module:
    del teacher
    width = field_of("student", student, "embedding").shape[-1]
    return _Queues(width, num_classes, dim, size, rngs)

  def loss(
    module: Any,
    student: Outputs,
    teacher: Outputs,
    batch: Any,
    *,
    temperature: Array,
    momentum: Array,
  ) -> Array:
    labels, mask = (
      get_entry("bi_tuning: batch", batch, k) for k in ("label", "mask")
    )
    kernel, bias = field_of("student", student, "classifier")
    embeddings = field_of("student", student, "embedding")
    encoded = field_of("teacher", teacher, "embedding")
    module.follow(momentum)
    keys = _project(module.average_kernel, module.average_bias, encoded)
    before = module.projections[...]
    module.enqueue(
      homogeneous_directions(encoded), keys, labels, mask, axis_name
    )
    projector_side = categorical_contrastive_loss(
      _project(module.kernel, module.bias, embeddings),
      keys,
      labels,
      before,
      temperature=temperature,
    )
    classifier_side = contrastive_cross_entropy_loss(
      homogeneous_directions(embeddings),
      labels,
      module.features[...],
      homogeneous_directions(kernel.T, bias),
      temperature=temperature,
    )
    return projector_side + classifier_side

  return modular(
    build,
    loss,
    axis_name=axis_name,
    temperature=temperature,
    momentum=momentum,
  )


class _PretrainedHead(nnx.Module):
  """The teacher's classifier and by how much it has moved."""

  def __init__(self, student: Outputs, teacher: Outputs, rngs: nnx.Rngs):
    del student, rngs
    kernel, bias = field_of("teacher", teacher, "classifier")
    self.kernel = nnx.Param(jnp.zeros(kernel.shape))
    self.bias = nnx.Param(jnp.zeros(bias.shape))

  def __call__(self, student: Outputs, teacher: Outputs) -> Array:
    kernel, bias = field_of("teacher", teacher, "classifier")
    embeddings = field_of("student", student, "embedding")
    bias = bias + self.bias[...]
    return embeddings @ (kernel + self.kernel[...]) + bias[None]


class _Queues(nnx.Module):
  """The projector, its moving average and the keys of both sides."""

  def __init__(
    self, width: int, num_classes: int, dim: int, size: int, rngs: nnx.Rngs
  ):
    start = nnx.to_pure_dict(nnx.state(layers.linear(width, dim, rngs=rngs)))
    self.kernel, self.bias = map(nnx.Param, (start["kernel"], start["bias"]))
    self.average_kernel = nnx.Variable(start["kernel"])
    self.average_bias = nnx.Variable(start["bias"])
    features = key_queue(rngs(), num_classes, width + 1, size=size)
    projections = key_queue(rngs(), num_classes, dim, size=size)
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
    mask: Array,
    axis_name: str | None,
  ) -> None:
    position = self.position[...]
    for queue, keys in (
      (self.features, features),
      (self.projections, projections),
    ):
      new = enqueue_keys(
        KeyQueue(queue[...], position),
        keys,
        labels,
        where=mask,
        axis_name=axis_name,
      )
      queue[...], self.position[...] = new


def _project(
  kernel: nnx.Variable, bias: nnx.Variable, embeddings: Array
) -> Array:
  rows = embeddings @ kernel[...] + bias[...][None]
  norm = safe_norm(rows, keepdims=True)
  return rows / jnp.where(norm == 0, 1.0, norm)
