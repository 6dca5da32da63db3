"""Features that the student predicts, and how well it says it can."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.distillation import hint_loss
from kdjax.distillation import pad_l2_loss
from kdjax.distillation import vid_loss
from kdjax.nets import Outputs
from kdjax.nets import _layers
from kdjax.objectives._modular import modular
from kdjax.objectives._objective import Objective
from kdjax.objectives._stages import field_of
from kdjax.objectives._stages import select_stages
from kdjax.ops._resizing import to_smaller


def vid(
  *,
  hidden: int | None = None,
  init_variance: float = 5.0,
  eps: float = 1e-5,
) -> Objective:
  r"""Variational information distillation (VID) over all stages.

  Each stage's :func:`kdjax.distillation.vid_loss`, summed over the stages
  without the stem. The mean comes from the student's map by three 1x1
  convolutions without bias and ReLU between them; the variance of channel c is
  softplus(rho_c) + eps, and rho is trained. Of maps of unequal size the larger
  is averaged to the smaller.

  Args:
    hidden: channels between the convolutions; the teacher's without it.
    init_variance: the variance at the start.
    eps: the least variance.

  Returns:
    An objective; its published weight is 1.

  Raises:
    ValueError: if `init_variance` is not above `eps`.

  Examples:
    >>> maps = jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.float32)
    >>> outputs = Outputs(maps, {"f0": maps}, None)
    >>> params, _ = vid().init(jax.random.key(0), outputs, outputs)
    >>> params[0]["rho"].shape
    (8,)

  References:
    Ahn et al., `Variational information distillation for knowledge transfer
    <https://arxiv.org/abs/1904.05835>`_, 2019, as in `RepDistiller
    <https://github.com/HobbitLong/RepDistiller>`_.
  """
  if not init_variance > eps:
    raise ValueError(
      f"vid: init_variance is {init_variance}; expected it above eps = {eps}."
    )
  rho = math.log(math.expm1(init_variance - eps))  # softplus gives it back

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    stages = zip(*jax.eval_shape(select_stages, student, teacher), strict=True)
    return nnx.List(
      [
        _Gaussian(ours.shape[-1], hidden, theirs.shape[-1], rho, rngs)
        for ours, theirs in stages
      ]
    )

  def loss(heads: Any, student: Outputs, teacher: Outputs) -> Any:
    total: Any = 0.0
    stages = zip(heads, *select_stages(student, teacher), strict=True)
    for head, *maps in stages:
      ours, theirs = to_smaller(*maps)
      variance = nnx.softplus(head.rho[...]) + eps
      total += vid_loss(head(ours), variance, theirs)
    return total

  return modular(build, loss)


def l2() -> Objective:
  """L2 distillation (CSE-L2) of the embeddings.

  Their mean squared difference. A student's embedding of another width than
  the teacher's goes through a linear layer first.

  Returns:
    An objective; its published weight is 15, beside the cross-entropy.

  Raises:
    ValueError: from `init`, if a network returns no embedding.

  References:
    Zhang et al., `Prime-aware adaptive distillation
    <https://arxiv.org/abs/2008.01458>`_, 2020, the baseline.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> _Projection:
    return _Projection("l2", student, teacher, rngs)

  def loss(projection: Any, student: Outputs, teacher: Outputs) -> Array:
    return hint_loss(
      projection(student.embedding), field_of("teacher", teacher, "embedding")
    )

  return modular(build, loss)


def pad_l2(*, eps: ArrayLike = 1e-6) -> Objective:
  """Prime-aware adaptive distillation (PAD) of the embeddings.

  The :func:`kdjax.distillation.pad_l2_loss`, with the log-variance from the
  student's embedding by a linear layer and batch normalization. An embedding
  of another width than the teacher's goes through a linear layer first.

  Args:
    eps: added to the variance.

  Returns:
    An objective; its published weight is 1, in a second stage after training
    with the labels and the L2 loss of the embeddings.

  Raises:
    ValueError: from `init`, if a network returns no embedding.

  References:
    Zhang et al., `Prime-aware adaptive distillation
    <https://arxiv.org/abs/2008.01458>`_, 2020, as in `torchdistill
    <https://github.com/yoshitomo-matsubara/torchdistill>`_.
  """

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> _VarianceBranch:
    projection = _Projection("pad_l2", student, teacher, rngs)
    width = teacher.embedding.shape[-1]
    return _VarianceBranch(projection, width, rngs)

  def loss(
    branch: Any, student: Outputs, teacher: Outputs, *, eps: Array
  ) -> Array:
    embedding, log_variance = branch(student.embedding)
    return pad_l2_loss(
      embedding,
      field_of("teacher", teacher, "embedding"),
      log_variance,
      eps=eps,
    )

  return modular(build, loss, eps=eps)


class _Gaussian(nnx.Module):
  """The mean of a teacher's map, and the parameter of its variance."""

  def __init__(
    self,
    inputs: int,
    hidden: int | None,
    outputs: int,
    rho: float,
    rngs: nnx.Rngs,
  ):
    widths = inputs, hidden or outputs, hidden or outputs, outputs
    self.layers = nnx.List(
      [
        _layers.convolution(
          a,
          b,
          1,
          kernel_init=_layers.TORCH_DEFAULT,
          rngs=rngs,
        )
        for a, b in itertools.pairwise(widths)
      ]
    )
    self.rho = nnx.Param(jnp.full(outputs, rho))

  def __call__(self, x: Array) -> Array:
    *before, last = self.layers
    for layer in before:
      x = nnx.relu(layer(x))
    return last(x)


class _Projection(nnx.Module):
  """A student's embedding at the teacher's width."""

  def __init__(self, method: str, student: Any, teacher: Any, rngs: nnx.Rngs):
    inputs = field_of("student", student, "embedding").shape[-1]
    outputs = field_of("teacher", teacher, "embedding").shape[-1]
    self.linear = (
      None if inputs == outputs else _layers.linear(inputs, outputs, rngs=rngs)
    )

  def __call__(self, x: Array) -> Array:
    return x if self.linear is None else self.linear(x)


class _VarianceBranch(nnx.Module):
  """A student's embedding at the teacher's width, and its log-variance."""

  def __init__(
    self,
    projection: "_Projection",
    width: int,
    rngs: nnx.Rngs,
  ):
    self.projection = projection
    # Batch normalization takes a bias away.
    self.linear = _layers.linear(width, width, use_bias=False, rngs=rngs)
    self.norm = _layers.batch_norm(width, rngs=rngs)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    x = self.projection(x)
    return x, self.norm(self.linear(x))
