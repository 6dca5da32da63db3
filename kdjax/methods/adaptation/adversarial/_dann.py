"""Domain-adversarial training (DANN), and with it BSP."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective, Schedule, combine, stateless
from kdjax.methods.adaptation.adversarial._players import discriminator_of


def dann(
  *,
  hidden: Sequence[int] = (1024, 1024),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  scaling: str = "paper",
) -> Objective:
  """Domain-adversarial training (DANN): features that hide their domain.

  The `kdjax.adaptation.dann_loss` of a discriminator of the embeddings,
  behind a gradient reversal: the discriminator learns at full speed, whatever
  the scale.

  Args:
    hidden: units of the discriminator's hidden layers, which have ReLUs; the
      logit follows. TLlib's have batch normalization besides.
    scale: of the reversed gradient, kept in the state.
    schedule: a factor of it by the step, such as
      `training.reversal_schedule(total_steps)`; 1 without.
    scaling: of the loss.

  Returns:
    An objective; its published weight is 1, beside the cross-entropy of the
    source.

  Raises:
    ValueError: if the student returns no embedding.

  Examples:
    >>> from kdjax.nets import Outputs
    >>> outputs = Outputs(jnp.ones((4, 3)), {}, jnp.ones((4, 8)))
    >>> objective = dann(hidden=(16,))
    >>> specs = {"source": outputs, "target": outputs}
    >>> params, state = objective.init(jax.random.key(0), specs)
    >>> params["discriminator"]["layers"][0]["kernel"].shape
    (8, 16)

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016.
  """

  def loss(
    game: Any,
    source_embedding: Array,
    target_embedding: Array,
    where_source: Array,
    where_target: Array,
    *,
    scale: Array,
    axis_name: str | None,
  ) -> Array:
    embeddings = source_embedding, target_embedding
    reversed_ones = ops.reverse_gradient(embeddings, game.turn(scale, schedule))
    return adaptation.dann_loss(
      *map(game.discriminator, reversed_ones),
      scaling=scaling,
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )

  return modular(discriminator_of(hidden), loss, scale=scale)


def bsp(
  *,
  weight: ArrayLike = 1e-4,
  hidden: Sequence[int] = (1024, 1024),
  scale: ArrayLike = 1.0,
  schedule: Schedule | None = None,
  num_components: int = 1,
) -> Objective:
  """Batch spectral penalization (BSP), beside the `dann` it repairs.

  Args:
    weight: of `kdjax.adaptation.bsp_loss`, kept in the state.
    hidden: units of the discriminator's hidden layers.
    scale: of DANN's reversed gradient, kept in the state.
    schedule: a factor of it by the step; 1 without.
    num_components: how many of the largest singular values are penalized.

  Returns:
    An objective; DANN's weight in it is 1.

  Raises:
    ValueError: if the student returns no embedding.

  References:
    Chen et al., `Transferability vs. discriminability: batch spectral
    penalization <https://proceedings.mlr.press/v97/chen19i.html>`_, 2019.
  """
  penalty = functools.partial(
    adaptation.bsp_loss, num_components=num_components
  )
  penalized = stateless(penalty, ("source_embeddings", "target_embeddings"))
  adversary = dann(hidden=hidden, scale=scale, schedule=schedule)
  return combine({"dann": (1.0, adversary), "penalty": (weight, penalized)})


def over_training(steps: ArrayLike, *, sharpness: float = 10.0) -> Schedule:
  """The rise of a reversal's scale from 0 to 1 over a training."""

  def schedule(step: Array) -> Array:
    progress = jnp.asarray(step, float) / jnp.asarray(steps, float)
    return ops.reversal_ramp(progress, sharpness=sharpness)

  return schedule
