"""Regression of the teacher's embedding: CSE-L2 and PAD-L2."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.nets import layers


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

  def loss(
    projection: Any, student_embeddings: Any, teacher_embeddings: Any
  ) -> Array:
    return distillation.hint_loss(
      projection(student_embeddings), teacher_embeddings
    )

  return modular(_Projection, loss)


def pad_l2(*, eps: ArrayLike = 1e-6) -> Objective:
  """Prime-aware adaptive distillation (PAD) of the embeddings.

  The `kdjax.distillation.pad_l2_loss`, with the log-variance from the
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

  def loss(
    branch: Any,
    student_embeddings: Any,
    teacher_embeddings: Any,
    *,
    eps: Array,
  ) -> Array:
    embeddings, log_variance = branch(student_embeddings)
    return distillation.pad_l2_loss(
      embeddings, teacher_embeddings, log_variance, eps=eps
    )

  return modular(_VarianceBranch, loss, eps=eps)


class _Projection(nnx.Module):
  """A student's embedding at the teacher's width."""

  def __init__(
    self, student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ):
    inputs = student_embeddings.shape[-1]
    outputs = teacher_embeddings.shape[-1]
    self.linear = (
      None if inputs == outputs else layers.linear(inputs, outputs, rngs=rngs)
    )

  def __call__(self, x: Array) -> Array:
    return x if self.linear is None else self.linear(x)


class _VarianceBranch(nnx.Module):
  """A student's embedding at the teacher's width, and its log-variance."""

  def __init__(
    self, student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ):
    self.projection = _Projection(student_embeddings, teacher_embeddings, rngs)
    width = teacher_embeddings.shape[-1]
    # Batch normalization takes a bias away.
    self.linear = layers.linear(width, width, use_bias=False, rngs=rngs)
    self.norm = layers.batch_norm(width, rngs=rngs)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    x = self.projection(x)
    return x, self.norm(self.linear(x))
