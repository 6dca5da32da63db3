"""Adversarial discriminative domain adaptation (ADDA)."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array

from kdjax import adaptation, ops
from kdjax.methods._method import Method
from kdjax.methods._modular import modular
from kdjax.methods._updates import Turn, alternate
from kdjax.methods.adaptation._row_kinds import row
from kdjax.methods.adaptation.adversarial._players import discriminator_of


def _adda(
  *, hidden: Sequence[int] = (1024, 1024), scaling: str = "paper"
) -> Method:
  """A critic of the teacher's source and the student's target embeddings.

  The teacher is the network trained on the source, where the student starts.
  The critic takes its step first, by `kdjax.adaptation.dann_loss`, then the
  student against the new critic, by `adda_loss`. There is no task, and the
  student's classifier stays that of the source. The labels are inverted, as
  in the paper; TLlib's script reverses a gradient in one step.
  """

  def critic(
    game: Any,
    source_teacher_embedding: Array,
    target_embedding: Array,
    where_source: Array,
    where_target: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    return adaptation.dann_loss(
      game.discriminator(jax.lax.stop_gradient(source_teacher_embedding)),
      game.discriminator(jax.lax.stop_gradient(target_embedding)),
      scaling=scaling,
      where_source=where_source,
      where_target=where_target,
      axis_name=axis_name,
    )

  def encoder(
    game: Any,
    target_embedding: Array,
    where_target: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    fooled = adaptation.adda_loss(game.discriminator(target_embedding))
    return ops.masked_mean(fooled, where_target, axis_name=axis_name)

  losses = {"critic": critic, "encoder": encoder}
  return Method(
    modular(discriminator_of(hidden), losses),
    update=alternate(
      Turn("critic", moves=("objective",)), Turn("encoder", moves=("student",))
    ),
  )


ROWS = {
  "adda": row(
    "ADDA",
    "the target's features pass for the source's",
    _adda,
    cross_entropy=0.0,
    networks=("teacher",),
    start="source",
    tuned="",
    source="paper",
  )
}
