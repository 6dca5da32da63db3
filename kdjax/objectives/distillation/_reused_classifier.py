"""Methods that use the classifiers of the two networks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import cat_loss
from kdjax.distillation import hint_loss
from kdjax.distillation import srrl_loss
from kdjax.nets import Outputs
from kdjax.nets import _layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._objective import stateless
from kdjax.objectives._stages import field_of
from kdjax.objectives._stages import last_feature
from kdjax.objectives._stages import last_maps
from kdjax.ops._resizing import to_smaller
from kdjax.ops._validation import check_integer


def cat(
  *,
  resolution: int = 2,
  normalize: bool = True,
) -> Objective:
  r"""Class attention transfer (CAT-KD) of class activation maps.

  The :func:`kdjax.distillation.cat_loss` of both networks' maps

  .. math::
    \mathrm{CAM}_{hwk} = \sum_c F_{hwc} W_{ck}

  of the last features F and the kernel W of the classifier. The authors first
  turn each network's average pooling and linear head into a 1x1 convolution
  without bias and average pooling. A mean and a linear map commute: the logits
  are the same, and what their convolution returns is this product. So no
  network is changed here, and the head's bias, which theirs has not, stays
  out of the maps.

  Args:
    resolution: the height and width to which the maps are pooled.
    normalize: whether each map is divided by its norm.

  Returns:
    An objective. Published weights, by pair of networks: without
    normalization, at resolution 2, 0.7 (resnet56 to resnet20) to 15
    (resnet32x4 to resnet8x4); with it 15 (vgg13 to MobileNetV2, resolution 2)
    to 600 (resnet32x4 to ShuffleNet, resolution 4).

  Raises:
    ValueError: from `apply`, if a network returns no classifier, or one that
      does not take the channels of the last map.

  References:
    Guo et al., `Class attention transfer based knowledge distillation
    <https://arxiv.org/abs/2304.12777>`_, 2023.
  """
  loss = functools.partial(cat_loss, resolution=resolution, normalize=normalize)

  def select(student: Outputs, teacher: Outputs) -> tuple[Array, Array]:
    _check_pooled("student", student)
    ours, theirs = _last_maps(student, teacher)
    return (
      _classify("student", student, ours, use_bias=False),
      _classify("teacher", teacher, theirs, use_bias=False),
    )

  return stateless(loss, select)


def srrl(
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
) -> Objective:
  """Softmax regression representation learning (SRRL).

  The :func:`kdjax.distillation.srrl_loss` of the last maps. The student's goes
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
    ours, theirs = jax.eval_shape(_last_maps, student, teacher)
    return _conv_norm(ours.shape[-1], theirs.shape[-1], 1, rngs)

  def loss(
    connector: Any,
    student: Outputs,
    teacher: Outputs,
    *,
    alpha: Array,
    beta: Array,
  ) -> Array:
    ours, theirs = _last_maps(student, teacher)
    ours = nnx.relu(connector(ours))
    logits = _classify("teacher", teacher, _layers.global_mean(ours))
    return srrl_loss(
      ours, theirs, logits, teacher.logits, alpha=alpha, beta=beta
    )

  return modular(build, loss, alpha=alpha, beta=beta)


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
  check_integer("factor", factor, 1)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_last_maps, student, teacher)
    inputs, outputs = ours.shape[-1], theirs.shape[-1]
    hidden = max(outputs // factor, 1)
    return nnx.List(
      [
        _conv_norm(inputs, hidden, 1, rngs),
        _conv_norm(hidden, hidden, 3, rngs),
        _conv_norm(hidden, outputs, 1, rngs),
      ]
    )

  def project(
    projector: Any, student: Outputs, teacher: Outputs
  ) -> tuple[Array, Array]:
    ours, theirs = to_smaller(*_last_maps(student, teacher))
    return _layers.activate(projector, ours)[1], theirs

  def loss(projector: Any, student: Outputs, teacher: Outputs) -> Array:
    return hint_loss(*project(projector, student, teacher))

  def predict(projector: Any, student: Outputs, teacher: Outputs) -> Array:
    ours, _ = project(projector, student, teacher)
    return _classify("teacher", teacher, _layers.global_mean(ours))

  return modular(build, loss, predict=predict)


def _last_maps(student: Outputs, teacher: Outputs) -> tuple[Array, Array]:
  """The deepest maps of both, of which the teacher's head sees the mean."""
  _check_pooled("teacher", teacher)
  return last_maps(student, teacher)


def _check_pooled(role: str, outputs: Outputs) -> None:
  shape = last_feature(role, outputs).shape
  if len(shape) == 3:
    raise ValueError(
      f"{role} has tokens of shape {shape} as last features; expected maps "
      "whose mean its classifier sees."
    )


def _classify(
  role: str, outputs: Outputs, features: Array, *, use_bias: bool = True
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


def _conv_norm(
  inputs: int, outputs: int, size: int, rngs: nnx.Rngs
) -> nnx.Module:
  return _layers.ConvNorm(
    inputs,
    outputs,
    size,
    rngs=rngs,
  )
