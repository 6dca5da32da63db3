"""Adversarial discriminative domain adaptation (ADDA)."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.adaptation.adversarial._players import (
  discriminator_of,
  frozen,
)


def adda(
  *,
  hidden: Sequence[int] = (1024, 1024),
  scaling: str = "paper",
) -> Objective:
  """Adversarial discriminative adaptation (ADDA): the target passes for source.

  The discriminator tells the embeddings of the frozen teacher on the source
  from the student's on the target, by `kdjax.adaptation.dann_loss`; the
  student minimizes `kdjax.adaptation.adda_loss`. Both take one step at a
  time. Teacher and student start as the network trained on the source; there is
  no task besides, and only the encoder should be trained.

  As the paper, by inverted labels; TLlib's script reverses a gradient, which is
  weak where the discriminator is sure.

  Args:
    hidden: units of the discriminator's hidden layers.
    scaling: of the discriminator's loss.

  Returns:
    An objective of the roles `"source_teacher"` and `"target"`; its published
    weight is 1.

  Raises:
    ValueError: if the student returns no embedding, or there is no teacher.

  References:
    Tzeng et al., `Adversarial discriminative domain adaptation
    <https://arxiv.org/abs/1702.05464>`_, 2017.
  """

  def loss(
    game: Any,
    source_teacher_embedding: Array,
    target_embedding: Array,
    where_source: Array,
    where_target: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    theirs = jax.lax.stop_gradient(source_teacher_embedding)
    ours = jax.lax.stop_gradient(target_embedding)
    told = adaptation.dann_loss(
      game.discriminator(theirs),
      game.discriminator(ours),
      scaling=scaling,
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )
    # To be fooled is no gradient to the discriminator: a copy stands in.
    fooled = adaptation.adda_loss(frozen(game.discriminator)(target_embedding))
    return told + ops.masked_mean(fooled, where_target, axis_name=axis_name)

  return modular(discriminator_of(hidden), loss)
