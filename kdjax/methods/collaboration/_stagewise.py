"""Stage-by-stage distillation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax import distillation, nets, ops
from kdjax.methods._method import Method
from kdjax.methods._modular import modular
from kdjax.methods._stages import select_stages
from kdjax.methods.collaboration._row_kinds import taught
from kdjax.methods.optimizers._layer_groups import by_layers
from kdjax.methods.optimizers._layerwise_training import stagewise_training
from kdjax.nets import layers


def _stagewise(steps: int, *, groups: Sequence[str] | None = None) -> Method:
  """Stage by stage: one map after the other, and the classifier last.

  Each stage has an equal share of the steps, and the last one also those that
  remain. A linear map takes each of the student's maps to the teacher's width.
  The layers of the other stages stay as they are.

  Args:
    steps: of the whole training.
    groups: regular expressions of the layers of each stage, from the input to
      the output; by default each layer of the student is a stage, which must be
      as many as its maps and the classifier.
  """
  ops.check_integer("stagewise: steps", steps, 1)

  def maps(student: nets.Outputs, teacher: nets.Outputs) -> Any:
    return select_stages(student, teacher, stem=True)

  def build(student: Any, teacher: Any, rngs: nnx.Rngs) -> nnx.Module:
    ours, theirs = jax.eval_shape(maps, student, teacher)
    for a, b in zip(ours, theirs, strict=True):
      if a.shape[1:3] != b.shape[1:3]:
        raise ValueError(
          f"stagewise: student has a map of {a.shape[1:3]} where teacher has "
          f"one of {b.shape[1:3]}; expected maps of one size in each stage."
        )
    widths = [
      (a.shape[-1], b.shape[-1]) for a, b in zip(ours, theirs, strict=True)
    ]
    return _Projectors(widths, rngs)

  def loss(
    projectors: Any, student: nets.Outputs, teacher: nets.Outputs, labels: Array
  ) -> Array:
    ours, theirs = maps(student, teacher)
    parts = [
      distillation.hint_loss(project(a), b)
      for project, a, b in zip(projectors.linear, ours, theirs, strict=True)
    ]
    values = jnp.stack([*parts, ops.cross_entropy(student.logits, labels)])
    return values[projectors.stage(steps, len(values))]

  def optimizer(inner: Any) -> Any:
    def staged(groups: Sequence[str]) -> Any:
      every = max(1, steps // max(len(groups), 1))
      return stagewise_training(inner, groups, every=every)

    return by_layers("stagewise", groups, staged)

  return Method(modular(build, loss), optimizer=optimizer)


class _Projectors(nnx.Module):
  """A linear map for each stage; counts its calls."""

  def __init__(self, widths: Any, rngs: nnx.Rngs):
    self.step = nnx.Variable(jnp.zeros((), jnp.int32))
    self.linear = nnx.List(layers.linear(*pair, rngs=rngs) for pair in widths)

  def stage(self, steps: int, stages: int) -> Array:
    step = self.step[...]
    self.step[...] = step + 1
    every = max(1, steps // stages)
    return jnp.minimum(step // every, stages - 1)


ROWS = {
  "stagewise": taught(
    "stage-by-stage KD",
    "stages learn the teacher's maps one by one, then the classifier labels",
    _stagewise,
    cross_entropy=0.0,
    tuned="",
    source="paper; equal shares of the steps are kdjax's",
  ),
}
