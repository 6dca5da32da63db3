"""CLIP and CLIP-KD: two towers of a student, and two of a teacher."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from kdjax import cross_modal, ops
from kdjax.methods._modular import modular
from kdjax.methods._objective import Objective
from kdjax.methods._stages import field_of
from kdjax.nets import layers

_START, _LARGEST = 1 / 0.07, 100.0


def _clip() -> Objective:
  """CLIP's contrastive loss, with a learned scale of at most 100."""

  def loss(
    module: Any,
    student_image_embeddings: Array,
    student_text_embeddings: Array,
    where: Array,
    *,
    axis_name: str | None,
  ) -> Array:
    return cross_modal.clip_loss(
      student_image_embeddings,
      student_text_embeddings,
      scale=module.scale(),
      where=where,
      axis_name=axis_name,
    )

  return modular(_Scale, loss)


def _clip_kd(
  *,
  task: ArrayLike = 1.0,
  feature: ArrayLike = 0.0,
  relation: ArrayLike = 0.0,
  interactive: ArrayLike = 0.0,
  gradient: ArrayLike = 0.0,
  affinity: ArrayLike = 0.0,
  augmented: ArrayLike = 0.0,
  teacher_scale: ArrayLike = _START,
) -> Objective:
  """CLIP-KD's losses beside CLIP's own, each with its weight.

  A student of another width is mapped to the teacher's for the losses that
  compare embeddings. The scales of ICL and AFD are learned without an
  exponential, from 2.66 on, as in the authors' code. AFD fuses the student's
  own embedding, not the mapped one, with the teacher's; its maps exist only if
  its weight is not 0.
  """
  fused = not isinstance(augmented, int | float) or augmented != 0

  def build(outputs: Any, rngs: nnx.Rngs) -> nnx.Module:
    rows = [_embedding(outputs, name) for name in _ROLES]
    return _Towers(rows[0].shape[-1], rows[2].shape[-1], fused, rngs)

  def loss(
    module: Any,
    outputs: Any,
    where: Array,
    *,
    axis_name: str | None,
    task: ArrayLike,
    feature: ArrayLike,
    relation: ArrayLike,
    interactive: ArrayLike,
    gradient: ArrayLike,
    affinity: ArrayLike,
    augmented: ArrayLike,
    teacher_scale: ArrayLike,
  ) -> Array:
    image, text, *teacher = (_embedding(outputs, name) for name in _ROLES)
    options = {"where": where, "axis_name": axis_name}
    scale = module.scale()
    scales = {"student_scale": scale, "teacher_scale": teacher_scale}
    plain = (image, text, *teacher)
    mapped = (*module.project(image, text), *teacher)
    total = jnp.asarray(
      task * cross_modal.clip_loss(image, text, scale=scale, **options)
      + feature * cross_modal.clip_feature_loss(*mapped, **options)
      + relation * cross_modal.clip_relation_loss(*plain, **scales, **options)
      + affinity
      * cross_modal.affinity_mimicking_loss(*plain, **scales, **options)
      + interactive
      * cross_modal.clip_interactive_loss(
        *mapped, scale=module.interactive[...], **options
      )
      + gradient * cross_modal.clip_gradient_loss(*mapped, **scales, **options)
    )
    if fused:
      total += augmented * cross_modal.clip_loss(
        *module.fuse(*plain), scale=module.fusion[...], **options
      )
    return total

  return modular(
    build,
    loss,
    task=task,
    feature=feature,
    relation=relation,
    interactive=interactive,
    gradient=gradient,
    affinity=affinity,
    augmented=augmented,
    teacher_scale=teacher_scale,
  )


_ROLES = ("student_image", "student_text", "teacher_image", "teacher_text")


class _Scale(nnx.Module):
  """The logarithm of CLIP's scale, as it is learned."""

  def __init__(self):
    self.log_scale = nnx.Param(jnp.log(jnp.asarray(_START, jnp.float32)))

  def scale(self) -> Array:
    log_scale = self.log_scale[...]
    # CLIP clips the parameter after each step, so that it can fall again: the
    # bound must not stop the gradient.
    bounded = jnp.minimum(log_scale, jnp.log(_LARGEST))
    return jnp.exp(log_scale + jax.lax.stop_gradient(bounded - log_scale))


class _Towers(_Scale):
  """The scales, and maps of the student's embeddings to the teacher's width."""

  def __init__(
    self, width: int, teacher_width: int, fused: bool, rngs: nnx.Rngs
  ):
    super().__init__()
    self.interactive = nnx.Param(jnp.log(jnp.asarray(_START, jnp.float32)))
    self.mapped = width != teacher_width
    if self.mapped:
      self.image = layers.linear(width, teacher_width, rngs=rngs)
      self.text = layers.linear(width, teacher_width, rngs=rngs)
    if fused:
      self.fusion = nnx.Param(jnp.log(jnp.asarray(_START, jnp.float32)))
      both = width + teacher_width
      self.image_fusion = layers.linear(both, width, rngs=rngs)
      self.text_fusion = layers.linear(both, width, rngs=rngs)

  def fuse(
    self, image: Array, text: Array, teacher_image: Array, teacher_text: Array
  ) -> tuple[Array, Array]:
    """Maps of the unit vectors of student and teacher, side by side."""
    teachers = jax.lax.stop_gradient((teacher_image, teacher_text))
    images, texts = (
      jnp.concatenate([ops.unit_vectors(ours), ops.unit_vectors(theirs)], -1)
      for ours, theirs in zip((image, text), teachers, strict=True)
    )
    return self.image_fusion(images), self.text_fusion(texts)

  def project(self, image: Array, text: Array) -> tuple[Array, Array]:
    if not self.mapped:
      return image, text
    return self.image(image), self.text(text)


def _embedding(outputs: Any, name: str) -> Any:
  role = ops.get_entry("clip_kd: outputs", outputs, name)
  return field_of(name, role, "embedding")
