"""Methods on pre-activations: AB and OFD."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import field_of, matched_stages, select_stages
from kdjax.methods.distillation.features._fitnet import Regressor
from kdjax.nets import layers

_select_preactivations = functools.partial(
  select_stages, student_side="preactivations", teacher_side="preactivations"
)


def ab(*, margin: ArrayLike = 1.0) -> Objective:
  r"""Activation boundaries (AB) over all stages, of pre-activations.

  .. math::
    \ell = \sum_{i=0}^{n-1} 2^{i - n + 1} \ell_i

  with the `kdjax.distillation.ab_loss` of each stage without the stem.
  A student's map of another size or width goes through `fitnet`'s
  convolution and batch normalization, without ReLU. It prepares the student
  in a stage of its own, before the training on labels.

  Args:
    margin: how far the student's pre-activations are pushed beyond 0.

  Returns:
    An objective; its published weight is 1, for 30 epochs. RepDistiller keeps
    the student's batch statistics fixed meanwhile.

  Raises:
    ValueError: from `init`, if a network returns no pre-activations, or a
      teacher's map is larger than the student's but no multiple.

  References:
    Heo et al., `Knowledge transfer via distillation of activation boundaries
    formed by hidden neurons <https://arxiv.org/abs/1811.03233>`_, 2019, as in
    `RepDistiller <https://github.com/HobbitLong/RepDistiller>`_.
  """

  def connect(ours: Any, theirs: Any, rngs: nnx.Rngs) -> Any:
    if ours.shape == theirs.shape:
      return _Identity()
    return Regressor(ours.shape, theirs.shape, rngs=rngs)

  def loss(
    connectors: Any,
    student: nets.Outputs,
    teacher: nets.Outputs,
    *,
    margin: ArrayLike,
  ) -> Array:
    stages = _connected(connectors, student, teacher)
    return _deeper_weigh_more(
      [
        distillation.ab_loss(ours, theirs, margin=margin)
        for ours, theirs in stages
      ]
    )

  build = _connectors(connect)
  return modular(build, loss, margin=margin)


def ofd() -> Objective:
  r"""Overhaul of feature distillation (OFD) over all stages.

  .. math::
    \ell = \sum_{i=0}^{n-1} 2^{i - n + 1} \ell_i

  with the `kdjax.distillation.ofd_loss` of each stage's pre-activations,
  without the stem. The student's go through a 1x1 convolution and batch
  normalization; the teacher's are averaged to the student's size; the margins
  come from the teacher's last batch normalization of each stage.

  Returns:
    An objective; its published weight is 1e-3 on CIFAR-100 and 1e-4 on
    ImageNet. The authors run the teacher with the statistics of the batch;
    that is up to the teacher's `forward`.

  Raises:
    ValueError: if a network returns no pre-activations, or the teacher no
      normalizations.

  References:
    Heo et al., `A comprehensive overhaul of feature distillation
    <https://arxiv.org/abs/1904.01866>`_, 2019, as in `mdistiller
    <https://github.com/megvii-research/mdistiller>`_.
  """

  def connect(ours: Any, theirs: Any, rngs: nnx.Rngs) -> Any:
    return layers.ConvNorm(
      ours.shape[-1],
      theirs.shape[-1],
      1,
      rngs=rngs,
    )

  def loss(
    connectors: Any, student: nets.Outputs, teacher: nets.Outputs
  ) -> Array:
    normalizations = field_of("teacher", teacher, "normalizations")
    names = [name for _, name in matched_stages(student, teacher)]
    stages = _connected(connectors, student, teacher)
    return _deeper_weigh_more(
      [
        distillation.ofd_loss(
          ours,
          ops.adaptive_mean_pool(theirs, ours.shape[1:3]),
          distillation.ofd_margin(*normalizations[name]),
        )
        for name, (ours, theirs) in zip(names, stages, strict=True)
      ]
    )

  return modular(_connectors(connect), loss)


class _Identity(nnx.Module):
  """The connector of maps of one shape, which leaves them as they are."""

  def __call__(self, x: Array) -> Array:
    return x


def _connectors(connect: Callable[..., Any]) -> Callable[..., nnx.Module]:
  """A builder of one connector for each stage."""

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_select_preactivations, student, teacher)
    return nnx.List(
      [connect(a, b, rngs) for a, b in zip(ours, theirs, strict=True)]
    )

  return build


def _connected(
  connectors: Any, student: nets.Outputs, teacher: nets.Outputs
) -> list[tuple[Array, Array]]:
  """The connected student's and the teacher's pre-activations."""
  stages = zip(
    connectors, *_select_preactivations(student, teacher), strict=True
  )
  return [(connect(ours), theirs) for connect, ours, theirs in stages]


def _deeper_weigh_more(losses: list[Array]) -> Any:
  """The sum over stages, of which each weighs half of the next."""
  depth = len(losses) - 1
  return sum(2.0 ** (i - depth) * loss for i, loss in enumerate(losses))
