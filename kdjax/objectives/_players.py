"""The players that methods of adaptation add to a student."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from kdjax.nets import Outputs
from kdjax.nets import layers
from kdjax.objectives._objective import Schedule
from kdjax.objectives._stages import field_of


class Game(nnx.Module):
  """Discriminators and classifiers by name, and how many turns they had.

  Args:
    rngs: random streams for the parameters.
    layer: makes the layers of all players.
    **players: name -> the widths of a perceptron, from inputs to logits.
  """

  def __init__(
    self,
    rngs: nnx.Rngs,
    *,
    layer: Callable[..., Any] = layers.linear,
    **players: Sequence[int],
  ):
    for name, widths in players.items():
      setattr(self, name, Player(widths, rngs, layer=layer))
    self.step = nnx.Variable(jnp.zeros((), jnp.int32))

  def turn(self, scale: Array, schedule: Schedule | None) -> Array:
    """The scale of this step's reversal; counts the step."""
    step = self.step[...]
    self.step[...] = step + 1
    return scale if schedule is None else scale * schedule(step)


class Player(nnx.Module):
  """A perceptron: hidden layers with ReLUs, then logits.

  Args:
    widths: from inputs to logits.
    rngs: random streams for the parameters.
    layer: `(inputs, outputs, rngs=) -> module`.
  """

  def __init__(
    self, widths: Sequence[int], rngs: nnx.Rngs, *, layer: Callable[..., Any]
  ):
    self.layers = nnx.List(
      layer(*pair, rngs=rngs) for pair in itertools.pairwise(widths)
    )

  def __call__(self, x: Array) -> Array:
    *hidden, last = self.layers
    for layer in hidden:
      x = nnx.relu(layer(x))
    return last(x)


def width_of(student: Any) -> int:
  """The width of a student's embedding, from its outputs or their shapes."""
  return field_of("student", student, "embedding").shape[-1]


def embeddings_of(source: Outputs, target: Outputs) -> tuple[Array, Array]:
  """A student's embeddings of both domains."""
  return (
    field_of("student", source, "embedding"),
    field_of("student", target, "embedding"),
  )


def masks_of(batch: Any) -> dict[str, Any]:
  """Which examples count, as the losses of two domains take it."""
  return {
    "where_source": batch["mask"],
    "where_target": batch["target"]["mask"],
  }
