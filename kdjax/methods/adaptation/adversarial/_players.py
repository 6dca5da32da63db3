"""The networks that methods of adaptation train beside a student."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax.methods._objective import Schedule
from kdjax.nets import layers


class Game(nnx.Module):
  """Discriminators and classifiers by name, and the number of the step.

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

  def turn(self, scale: ArrayLike, schedule: Schedule | None) -> Any:
    """Returns the scale of this step's reversal, and counts the step."""
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


def discriminator_of(
  hidden: Sequence[int],
) -> Callable[..., nnx.Module]:
  """Builds a game whose only player tells the domains of embeddings apart."""

  def build(embedding: Any, rngs: nnx.Rngs) -> nnx.Module:
    return Game(rngs, discriminator=(embedding.shape[-1], *hidden, 1))

  return build


def frozen(player: nnx.Module) -> Any:
  """A copy of a player whose parameters get no gradient."""
  graph, variables = nnx.split(player)
  return nnx.merge(graph, jax.lax.stop_gradient(variables))
