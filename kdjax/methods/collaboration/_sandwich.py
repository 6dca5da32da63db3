"""The sandwich rule: a network teaches narrower ones."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import collaboration, ops
from kdjax.methods._objective import Objective, stateless
from kdjax.methods.collaboration._peers import peer_logits
from kdjax.methods.collaboration._row_kinds import taught

NARROW = "narrow"  # the views in which a student answers by a part of itself


def _sandwich(*, temperature: ArrayLike = 1.0) -> Objective:
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


ROWS = {
  "sandwich": taught(
    "progressive shrinking",
    "the network teaches narrower networks that share its weights",
    _sandwich,
    networks=(),
    views=("narrow_0", "narrow_1", "narrow_2"),
    source="authors of universally slimmable networks",
  ),
}
