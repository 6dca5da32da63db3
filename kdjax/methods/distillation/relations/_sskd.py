"""Self-supervised knowledge distillation (SSKD) of rotated images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import distillation
from kdjax.methods._binding import Roles, resolve
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods.distillation._row_kinds import row
from kdjax.nets import layers


def _sskd(
  *,
  temperature: ArrayLike = 4.0,
  ratio: ArrayLike = 1.0,
  transformed_weight: ArrayLike = 2.7,
  similarity_temperature: ArrayLike = 0.5,
  similarity_ratio: ArrayLike = 0.75,
  similarity_weight: ArrayLike = 10.0,
  views: tuple[str, ...] = ("rotated_1", "rotated_2", "rotated_3"),
) -> Objective:
  r"""By the transformed, similarity and pretext losses of SSKD.

  .. math::
    \ell = w_t \, \ell_\mathrm{transformed} + w_s \, \ell_\mathrm{similarity}
           + \ell_\mathrm{pretext}

  of `kdjax.distillation.sskd_transformed_loss`,
  `kdjax.distillation.sskd_similarity_loss` and
  `kdjax.distillation.sskd_pretext_loss`. Similarities are those of embeddings
  behind a projection head of two layers for each network. The pretext task
  trains the teacher's head, and nothing else. The ratios are the shares of
  images that the teacher gets wrong, but kept.

  Departs from the authors' code: there the teacher's head is trained for 60
  epochs beforehand; here it learns beside the student, in one stage.
  """

  def build(
    student_embedding: Any, teacher_embedding: Any, rngs: nnx.Rngs
  ) -> nnx.Module:
    return nnx.Dict(
      student=_projection_head(student_embedding.shape[-1], rngs),
      teacher=_projection_head(teacher_embedding.shape[-1], rngs),
    )

  def loss(
    heads: Any,
    outputs: Roles,
    labels: Any,
    where: Any,
    *,
    temperature: ArrayLike,
    ratio: ArrayLike,
    transformed_weight: ArrayLike,
    similarity_temperature: ArrayLike,
    similarity_ratio: ArrayLike,
    similarity_weight: ArrayLike,
    axis_name: str | None,
  ) -> Array:
    coupling: dict[str, Any] = {
      "where": where,
      "axis_name": axis_name,
    }

    def seen(role: str, field: str) -> list[Array]:
      roles = [role, *(f"{role}_{view}" for view in views)]
      names = [f"{role}_{field}" for role in roles]
      return [resolve("sskd", name, outputs, {}) for name in names]

    taught = jnp.stack(seen("teacher", "embedding"), 1)
    # The pretext task shapes the head, never the teacher.
    taught = heads["teacher"](jax.lax.stop_gradient(taught))
    transformed = distillation.sskd_transformed_loss(
      jnp.stack(seen("student", "logits")[1:], 1),
      jnp.stack(seen("teacher", "logits")[1:], 1),
      labels,
      temperature=temperature,
      ratio=ratio,
      **coupling,
    )
    similarity = distillation.sskd_similarity_loss(
      heads["student"](jnp.stack(seen("student", "embedding"), 1)),
      taught,
      temperature=similarity_temperature,
      ratio=similarity_ratio,
      **coupling,
    )
    pretext = distillation.sskd_pretext_loss(taught, **coupling)
    return (
      pretext
      + transformed_weight * transformed
      + similarity_weight * similarity
    )

  return modular(
    build,
    loss,
    temperature=temperature,
    ratio=ratio,
    transformed_weight=transformed_weight,
    similarity_temperature=similarity_temperature,
    similarity_ratio=similarity_ratio,
    similarity_weight=similarity_weight,
  )


def _projection_head(width: int, rngs: nnx.Rngs) -> nnx.Module:
  return nnx.Sequential(
    layers.linear(width, width, rngs=rngs),
    nnx.relu,
    layers.linear(width, width, rngs=rngs),
  )


ROWS = {
  "sskd": row(
    "relations",
    "Self-supervised KD, Xu 2020",
    "matches similarities and predictions on rotated views",
    _sskd,
    cross_entropy=0.1,
    kd=0.9,
    views=("rotated_1", "rotated_2", "rotated_3"),
    source="SSKD, student.py",
  ),
}
