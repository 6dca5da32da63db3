"""Progressive learning: along the teacher's path, by stage, and by width."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, distillation, nets, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import (
  Metrics,
  Objective,
  as_hyperparameters,
  batch_mean,
  loss_metric,
  stateless,
  widen,
)
from kdjax.methods._stages import select_stages
from kdjax.methods.collaboration._peers import peer_logits
from kdjax.nets import layers

NARROW = "narrow"  # the views in which a student answers by a part of itself


def rco(steps: int, *, temperature: ArrayLike = 4.0) -> Objective:
  """RCO: `teacher_0`, `teacher_1` ... are checkpoints of one teacher."""
  ops.check_integer("rco: steps", steps, 1)

  def init(key: Array, specs: Any) -> tuple[Any, Any]:
    del key, specs
    numbers = as_hyperparameters({"temperature": temperature})
    return {}, {"step": jnp.zeros((), jnp.int32)} | numbers

  def apply(
    params: Any,
    state: Any,
    outputs: Any,
    batch: Any,
    key: Array,
    *,
    axis_name: str | None = None,
  ) -> tuple[Array, Any, Metrics]:
    del params, key
    ours = widen(ops.get_entry("rco: outputs", outputs, "student").logits)
    anchors = widen(peer_logits(outputs, "teacher"))
    anchor = collaboration.route_anchor(
      state["step"], steps=steps, num_anchors=len(anchors)
    )
    values = distillation.soft_target_loss(
      ours, anchors[anchor], temperature=state["temperature"]
    )
    value = batch_mean(values, batch, axis_name, rco)
    state = state | {"step": state["step"] + 1}
    return value, state, loss_metric(value, batch)

  return Objective(init, apply)


def stagewise(steps: int) -> Objective:
  """Stage by stage: one map after the other, and the classifier last.

  Each stage has an equal share of the steps, and the last one also those that
  remain. A linear map takes each of the student's maps to the teacher's width.
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

  return modular(build, loss)


def sandwich(*, temperature: ArrayLike = 1.0) -> Objective:
  """Sandwich rule: the student teaches the networks inside it.

  The roles `student_narrow_0`, `student_narrow_1` ... are theirs.
  """

  def select(outputs: Any, student_logits: Array) -> tuple[Array, Array]:
    return peer_logits(outputs, f"student_{NARROW}"), student_logits

  return stateless(collaboration.sandwich_loss, select, temperature=temperature)


def sandwich_views(
  widths: float | Sequence[float], *, count: int = 3, on: str = "image"
) -> dict[str, Callable[[Array, Any], Any]]:
  """Sandwich rule: views in which a part of the student answers.

  The first one is of the smallest part, the others are of parts of random
  width, which each device draws for its share of the batch. With the student
  itself these are the four networks of the authors' steps. The student is
  `training.slimmable`.

  Args:
    widths: the share of the units of each layer that the smallest part has;
      the others are uniform between it and 1. Or several shares, from which
      the others are drawn, as once-for-all networks do.
    count: how many views there are.
    on: the entry that holds the inputs.

  Returns:
    `views` for `kdjax.training.distill` and `methods.create("sandwich")`.

  Raises:
    ValueError: if widths are not between 0 and 1, or count is below 2.
    TypeError: if count is no integer.

  Examples:
    >>> sorted(sandwich_views(0.25))
    ['narrow_0', 'narrow_1', 'narrow_2']

  References:
    Yu and Huang, `Universally slimmable networks and improved training
    techniques <https://arxiv.org/abs/1903.05134>`_, 2019; Cai et al.,
    `Once-for-all: train one network and specialize it for efficient deployment
    <https://arxiv.org/abs/1908.09791>`_, 2020.
  """
  ops.check_range("sandwich_views: widths", widths, 0.0, 1.0)
  choices = jnp.atleast_1d(jnp.asarray(widths, jnp.float32))
  ops.check_integer("sandwich_views: count", count, 2)

  def view(number: int) -> Callable[[Array, Any], Any]:
    def narrowed(key: Array, batch: Any) -> Any:
      inputs = ops.get_entry("sandwich_views: batch", batch, on)
      width = jnp.min(choices)
      if number and len(choices) > 1:
        width = jax.random.choice(key, choices)
      elif number:
        width = jax.random.uniform(key, minval=width, maxval=1.0)
      # One width for the batch; a row of inputs has what its batch has.
      return {"inputs": inputs, "width": jnp.full(len(inputs), width)}

    return narrowed

  return {f"{NARROW}_{i}": view(i) for i in range(count)}


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
