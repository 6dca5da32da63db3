"""Connected pre-activations of all stages, for AB and OFD."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from kdjax import nets
from kdjax.methods._stages import select_stages

_select_preactivations = functools.partial(
  select_stages, student_side="preactivations", teacher_side="preactivations"
)


def connectors_by(connect: Callable[..., Any]) -> Callable[..., nnx.Module]:
  """A builder of one connector for each stage."""

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(_select_preactivations, student, teacher)
    return nnx.List(
      [connect(a, b, rngs) for a, b in zip(ours, theirs, strict=True)]
    )

  return build


def connected(
  connectors: Any, student: nets.Outputs, teacher: nets.Outputs
) -> list[tuple[Array, Array]]:
  """The connected student's and the teacher's pre-activations."""
  stages = zip(
    connectors, *_select_preactivations(student, teacher), strict=True
  )
  return [(connect(ours), theirs) for connect, ours, theirs in stages]


def deeper_weigh_more(losses: list[Array]) -> Any:
  """The sum over stages, of which each weighs half of the next."""
  depth = len(losses) - 1
  return sum(2.0 ** (i - depth) * loss for i, loss in enumerate(losses))
