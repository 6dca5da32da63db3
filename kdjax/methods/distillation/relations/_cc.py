"""Correlation congruence (CC), and losses of learned embeddings."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.nets import layers


def cc(
  *,
  form: str = "kernel",
  dim: int = 128,
  gamma: ArrayLike = 0.4,
  order: int = 2,
) -> Objective:
  """Correlation congruence (CC) of learned embeddings.

  Both networks' embeddings pass through a linear layer, which is trained with
  the student, the teacher's too, as in RepDistiller.

  Args:
    form: "kernel" or "adjacent", see `kdjax.distillation.cc_loss`.
    dim: the width of the embeddings.
    gamma: the kernel's rate.
    order: the last power of the kernel's expansion.

  Returns:
    An objective with the metric `"loss"`. Published weight: 0.02, for
    "adjacent".

  Raises:
    ValueError: if the form is unknown; from `init`, if a network returns no
      embedding.

  Nothing keeps the two layers from mapping all examples to one point, where
  the loss is 0: weigh it as the authors do, or use the pure loss.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> objective = cc(dim=32)
    >>> student = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> specs = {"student": student, "teacher": student}
    >>> params, _ = objective.init(jax.random.key(0), specs)
    >>> params["teacher"]["kernel"].shape
    (8, 32)

  References:
    Peng et al., `Correlation congruence for knowledge distillation
    <https://arxiv.org/abs/1904.01802>`_, 2019.
  """
  ops.check_choice("form", form, ("kernel", "adjacent"))

  loss = functools.partial(distillation.cc_loss, form=form, order=order)
  return learned_embeddings(loss, dim, gamma=gamma)


def learned_embeddings(
  loss: Callable[..., Array],
  dim: int,
  **hyperparameters: Any,
) -> Objective:
  """Makes the objective of a loss between learned embeddings."""

  def build(
    student_embeddings: Any, teacher_embeddings: Any, rngs: nnx.Rngs
  ) -> _Embeddings:
    widths = student_embeddings.shape[-1], teacher_embeddings.shape[-1]
    return _Embeddings(*widths, dim, rngs)

  def compare(
    module: _Embeddings,
    student_embeddings: Any,
    teacher_embeddings: Any,
    mask: Any,
    *,
    axis_name: str | None,
    **hyper: Array,
  ) -> Array:
    return loss(
      module.student(student_embeddings),
      # The layer learns; the network behind it does not.
      module.teacher(jax.lax.stop_gradient(teacher_embeddings)),
      where=mask,
      axis_name=axis_name,
      stop_teacher_gradient=False,
      **hyper,
    )

  return modular(build, compare, **hyperparameters)


class _Embeddings(nnx.Module):
  """A linear embedding of each network into one space."""

  def __init__(self, student: int, teacher: int, dim: int, rngs: nnx.Rngs):
    self.student = layers.linear(student, dim, rngs=rngs)
    self.teacher = layers.linear(teacher, dim, rngs=rngs)
