"""Methods that reuse the teacher's classifier: SimKD and SRRL."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import field_of, last_feature, last_maps
from kdjax.nets import layers


def simkd(*, factor: int = 2) -> Objective:
  """SimKD: the student reuses the teacher's classifier.

  The mean squared difference of the last maps, to which the student's comes by
  a projector: convolutions 1x1, 3x3 and 1x1, each before batch normalization
  and ReLU, over the teacher's channels divided by `factor` in between. Of maps
  of unequal size the larger is averaged to the smaller.

  The student's own head is not trained: `predict` gives the logits, those of
  the teacher's classifier on the mean of the projected map.

  Args:
    factor: by how much the projector is narrower than the teacher.

  Returns:
    An objective with `predict`; its published weight is 1, with neither
    cross-entropy nor KD.

  Raises:
    ValueError: if `factor` is below 1; from `predict`, if the teacher returns
      no classifier, or one that does not take the channels of its last map.
    TypeError: if `factor` is no integer.

  References:
    Chen et al., `Knowledge distillation with the reused teacher classifier
    <https://arxiv.org/abs/2203.14001>`_, 2022.
  """
  ops.check_integer("factor", factor, 1)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(classified_maps, student, teacher)
    inputs, outputs = ours.shape[-1], theirs.shape[-1]
    hidden = max(outputs // factor, 1)
    return nnx.List(
      [
        layers.ConvNorm(inputs, hidden, 1, rngs=rngs),
        layers.ConvNorm(hidden, hidden, 3, rngs=rngs),
        layers.ConvNorm(hidden, outputs, 1, rngs=rngs),
      ]
    )

  def project(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> tuple[Array, Array]:
    ours, theirs = ops.pool_to_smaller(*classified_maps(student, teacher))
    return layers.activate(projector, ours)[1], theirs

  def loss(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    return distillation.hint_loss(*project(projector, student, teacher))

  def predict(
    projector: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    ours, _ = project(projector, student, teacher)
    return classify("teacher", teacher, layers.global_mean(ours))

  return modular(build, loss, predict=predict)


def srrl(
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
) -> Objective:
  """Softmax regression representation learning (SRRL).

  The `kdjax.distillation.srrl_loss` of the last maps. The student's goes
  through a 1x1 convolution, batch normalization and ReLU to the teacher's
  channels; the teacher's classifier, which is not trained, sees its mean.

  Args:
    alpha: the weight of the features.
    beta: the weight of the logits.

  Returns:
    An objective; its published weight is 1, with the defaults here (cls_KD's
    beta is 5).

  Raises:
    ValueError: from `apply`, if the teacher returns no classifier, or one that
      does not take the channels of its last map.

  References:
    Yang et al., `Knowledge distillation via softmax regression representation
    learning <https://openreview.net/forum?id=ZzwDy_wiWv>`_, 2021.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(classified_maps, student, teacher)
    return layers.ConvNorm(ours.shape[-1], theirs.shape[-1], 1, rngs=rngs)

  def loss(
    connector: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    alpha: Array,
    beta: Array,
  ) -> Array:
    ours, theirs = classified_maps(student, teacher)
    ours = nnx.relu(connector(ours))
    logits = classify("teacher", teacher, layers.global_mean(ours))
    return distillation.srrl_loss(
      ours, theirs, logits, teacher.logits, alpha=alpha, beta=beta
    )

  return modular(build, loss, alpha=alpha, beta=beta)


def classified_maps(
  student: nets.Outputs, teacher: nets.Outputs
) -> tuple[Array, Array]:
  """The deepest maps of both, of which the teacher's head sees the mean."""
  check_pooled("teacher", teacher)
  return last_maps(student, teacher)


def check_pooled(role: str, outputs: nets.Outputs) -> None:
  """Raises ValueError for tokens, of which a classifier sees no mean."""
  shape = last_feature(role, outputs).shape
  if len(shape) == 3:
    raise ValueError(
      f"{role} has tokens of shape {shape} as last features; expected maps "
      "whose mean its classifier sees."
    )


def classify(
  role: str, outputs: nets.Outputs, features: Array, *, use_bias: bool = True
) -> Array:
  """Applies a network's own classifier to features `[..., channels]`."""
  kernel, bias = field_of(role, outputs, "classifier")
  if role == "teacher":
    kernel, bias = jax.lax.stop_gradient((kernel, bias))
  if kernel.shape[0] != features.shape[-1]:
    raise ValueError(
      f"{role} has a classifier of {kernel.shape[0]} inputs and its last "
      f"features have {features.shape[-1]} channels; expected as many."
    )
  logits = jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST)
  return (
    logits + jnp.expand_dims(bias, range(logits.ndim - 1))
    if use_bias
    else logits
  )
