"""Self-supervised knowledge distillation (SSKD)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
def sskd_transformed_loss(
  student_logits: Float[Array, "batch views classes"],
  teacher_logits: Float[Array, "batch views classes"],
  labels: Integer[Array, " batch"],
  *,
  temperature: ArrayLike = 4.0,
  ratio: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""SSKD on transformed images: soft targets of the teacher's best examples.

  .. math::
    \ell = \operatorname{mean}_{i \in K} T^2 \, \mathrm{KL}(q^T_i \Vert q^S_i)

  K holds all transformed images that the teacher classifies correctly, and a
  share `ratio` of the others: the images for which the teacher ranks the label
  best.

  Args:
    student_logits: `[batch, views, classes]`, for the transformed images.
    teacher_logits: `[batch, views, classes]`; they receive no gradient.
    labels: class indices `[batch]`.
    temperature: T > 0. May be traced.
    ratio: the share of the wrong images in K, in [0, 1]. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.
    where: `[batch]`, True for the examples in the loss, with all their views.
      None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar, in nats; 0 if K is empty. Published weight: 2.7.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0 or a
      static ratio is outside [0, 1].

  Of wrong images of equal rank, K takes the earlier in the batch; in the
  authors' code their order depends on the sorting algorithm.

  Examples:
    >>> logits = jnp.ones((2, 3, 5))
    >>> sskd_transformed_loss(logits, logits, jnp.array([0, 1]))
    Array(0., dtype=float32)

  References:
    Xu et al., `Knowledge distillation meets self-supervision
    <https://arxiv.org/abs/2006.07114>`_, 2020; code xuguodong03/SSKD.
  """
  if where is not None:
    labels = jnp.where(where, labels, 0)
  labels = jnp.broadcast_to(labels[:, None], student_logits.shape[:2])
  classes = student_logits.shape[-1]
  known = ops.check_labels(labels, classes)
  student_logits, teacher_logits = as_pair(
    student_logits, teacher_logits, stop_teacher_gradient
  )
  student_logits = ops.zero_masked(student_logits, where)
  teacher_logits = ops.zero_masked(teacher_logits, where)
  values = ops.kl_divergence(
    student_logits, teacher_logits, temperature=temperature
  )
  values = ops.mask_unknown_labels(values, labels, classes)
  kept = _best_share(_rank(teacher_logits, known), ratio, where, axis_name)
  # NaN compares as any rank; it must reach the caller.
  kept |= jnp.isnan(values)
  scale = jnp.square(jnp.asarray(temperature, values.dtype))
  return scale * ops.masked_mean(values, kept, axis_name=axis_name)


@ops.validate
def sskd_similarity_loss(
  student_embeddings: Float[Array, "batch views student_dims"],
  teacher_embeddings: Float[Array, "batch views teacher_dims"],
  *,
  temperature: ArrayLike = 0.5,
  ratio: ArrayLike = 0.75,
  stop_teacher_gradient: bool = True,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""SSKD on similarities between transformed and original images.

  .. math::
    \ell = \operatorname{mean}_{i \in K} T^2 \, \mathrm{KL}(
      \mathrm{softmax}_j(\cos(\tilde e^T_i, e^T_j) / T) \Vert
      \mathrm{softmax}_j(\cos(\tilde e^S_i, e^S_j) / T))

  over the images j of the batch. K holds all transformed images whose own
  original has the teacher's largest similarity, and a share `ratio` of the
  others: the images whose own original ranks best.

  Args:
    student_embeddings: `[batch, views, student_dims]`, the outputs of a
      projection head; the first view is the original, the others transformed.
    teacher_embeddings: `[batch, views, teacher_dims]`; they receive no
      gradient.
    temperature: T > 0. May be traced.
    ratio: the share of the wrong images in K, in [0, 1]. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.
    where: `[batch]`, True for the examples in the loss, with all their views.
      None takes all.
    chunk_size: for how many examples the similarities are in memory at a time,
      in the backward pass too; a static integer. None computes all at once.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar, in nats; 0 if K is empty. Published weight: 10.

  Raises:
    ValueError: if batch or views differ, a static temperature is not above 0 or
      a static ratio is outside [0, 1].

  Of wrong images of equal rank, K takes the earlier in the batch; in the
  authors' code their order depends on the sorting algorithm.

  Examples:
    >>> embeddings = jnp.ones((2, 4, 5))
    >>> sskd_similarity_loss(embeddings, embeddings)
    Array(0., dtype=float32)

  References:
    Xu et al., `Knowledge distillation meets self-supervision
    <https://arxiv.org/abs/2006.07114>`_, 2020; code xuguodong03/SSKD.
  """
  student_embeddings, teacher_embeddings = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  student, teacher = (
    _images(x, where, axis_name)
    for x in (student_embeddings, teacher_embeddings)
  )

  def compared(
    part: tuple[Array, Array, Array],
  ) -> tuple[Array, Array]:
    own_student, own_teacher, own = part
    similar = _similarities(own_teacher, own, teacher)
    values = ops.kl_divergence(
      _similarities(own_student, own, student),
      similar,
      temperature=temperature,
    )
    return values, _rank(similar, own)

  parts = student.transformed, teacher.transformed, student.own
  values, ranks = ops.in_chunks(compared, parts, chunk_size)
  kept = _best_share(ranks, ratio, where, axis_name)
  kept |= jnp.isnan(values)
  scale = jnp.square(jnp.asarray(temperature, values.dtype))
  return scale * ops.masked_mean(values, kept, axis_name=axis_name)


@ops.validate
def sskd_pretext_loss(
  embeddings: Float[Array, "batch views dims"],
  *,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Pretext task of SSKD: identify the original of a transformed image.

  .. math::
    \ell = - \operatorname{mean}_i \log \mathrm{softmax}_j(
      \cos(\tilde e_i, e_j))_{j = i}

  The loss trains the teacher's projection head, on frozen features.

  Args:
    embeddings: `[batch, views, dims]`; the first view is the original, the
      others transformed.
    where: `[batch]`, True for the examples in the loss, with all their views.
      None takes all.
    chunk_size: as in `sskd_similarity_loss`.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar, in nats. The authors train with this loss for 60 epochs before the
    distillation.

  Raises:
    TypeError: if the embeddings are not floating-point.

  Examples:
    >>> embeddings = jnp.broadcast_to(jnp.eye(2)[:, None], (2, 4, 2))
    >>> print(f"{sskd_pretext_loss(embeddings):.3f}")
    0.313

  References:
    Xu et al., `Knowledge distillation meets self-supervision
    <https://arxiv.org/abs/2006.07114>`_, 2020; code xuguodong03/SSKD.
  """
  images = _images(
    embeddings.astype(ops.compute_dtype(embeddings)), where, axis_name
  )

  def losses(part: tuple[Array, Array]) -> Array:
    transformed, own = part
    similarities = _similarities(transformed, own, images)
    chosen = jnp.take_along_axis(similarities, own[..., None], -1)[..., 0]
    return jax.nn.logsumexp(similarities, -1) - chosen

  values = ops.in_chunks(losses, (images.transformed, images.own), chunk_size)
  return ops.masked_mean(values, where, axis_name=axis_name)


class _Images(NamedTuple):
  """Unit embeddings: transformed images of this device, originals of all."""

  transformed: Float[Array, "batch transforms dims"]
  own: Int[Array, "batch transforms"]
  originals: Float[Array, "whole dims"]
  columns: Bool[Array, " whole"] | None


def _images(
  embeddings: Float[Array, "batch views dims"],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> _Images:
  unitary = ops.normalize_as_torch(ops.zero_masked(embeddings, where))
  places = ops.gathered_positions(embeddings.shape[0], axis_name)
  return _Images(
    unitary[:, 1:],
    jnp.broadcast_to(places[:, None], unitary[:, 1:].shape[:2]),
    ops.gather_batch(unitary[:, 0], axis_name),
    None if where is None else ops.gather_batch(where, axis_name),
  )


def _similarities(
  transformed: Float[Array, "rows transforms dims"],
  own: Int[Array, "rows transforms"],
  images: _Images,
) -> Float[Array, "rows transforms whole"]:
  """Returns the cosines of transformed images with all originals.

  The value is -inf at a masked original, but 0 at the image's own, so that no
  row is all -inf.
  """
  cosines = jnp.einsum(
    "bvd,nd->bvn", transformed, images.originals, precision="highest"
  )
  if images.columns is None:
    return cosines
  is_own = own[..., None] == jnp.arange(images.originals.shape[0])[None, None]
  masked = jnp.where(is_own, 0.0, -jnp.inf)
  return jnp.where(images.columns[None, None], cosines, masked)


def _rank(scores: Array, chosen: Array) -> Array:
  """Returns how many scores of a row rank before the chosen one."""
  own = jnp.take_along_axis(scores, chosen[..., None], -1)
  index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  earlier = index < chosen[..., None]
  return jnp.sum((scores > own) | ((scores == own) & earlier), -1)


def _best_share(
  ranks: Array, ratio: ArrayLike, where: Array | None, axis_name: str | None
) -> Array:
  """Returns True for rank 0 and for the best share of the other ranks."""
  share = ops.as_fraction("ratio", ratio, jnp.result_type(float))
  size = ranks.size
  if where is None:
    where = jnp.ones(ranks.shape[:1], bool)
  candidates = jnp.broadcast_to(where[:, None], ranks.shape)
  wrong = candidates & (ranks > 0)
  everywhere = ops.gather_batch(
    jnp.where(wrong, ranks, jnp.iinfo(ranks.dtype).max).ravel(), axis_name
  )
  order = jnp.argsort(jnp.argsort(everywhere, stable=True))
  order = ops.local_rows(order, size, axis_name)
  count = jnp.sum(ops.gather_batch(wrong, axis_name))
  # The factor keeps floor from rounding a product such as 0.29 * 100 down to
  # 28.
  keep = jnp.floor(count * share * (1 + 1e-6))
  best = order.reshape(ranks.shape) < keep
  return candidates & ((ranks == 0) | (wrong & best))
