"""Self-supervised knowledge distillation (SSKD)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from kdjax.distillation._feature_pairs import as_pair
from kdjax.ops import check_labels
from kdjax.ops import check_range
from kdjax.ops import compute_dtype
from kdjax.ops import gather_batch
from kdjax.ops import gathered_positions
from kdjax.ops import in_chunks
from kdjax.ops import kl_divergence
from kdjax.ops import local_rows
from kdjax.ops import masked_mean
from kdjax.ops import normalize_as_torch
from kdjax.ops import validate
from kdjax.ops import zero_masked


@validate
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
  r"""SSKD on transformed images: soft targets where the teacher errs least.

  .. math::
    \ell = \operatorname{mean}_{i \in K} T^2 \, \mathrm{KL}(q^T_i \Vert q^S_i)

  K are all transformed images that the teacher classifies rightly, and of the
  others a share `ratio`, those with the best rank of the label.

  Args:
    student_logits: of the transformed images, `[batch, views, classes]`.
    teacher_logits: the teacher's; they receive no gradient.
    labels: of the images, `[batch]`.
    temperature: T > 0. May be traced.
    ratio: in [0, 1]. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.
    where: which examples count, with all their views.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, in nats; 0 if nothing is kept. Published weight: 2.7.

  Raises:
    ValueError: if shapes differ, a static temperature is not above 0 or a
      static ratio is outside [0, 1].

  Of wrong images of equal rank the earlier are kept; in the authors' code it is
  left to the sorting.

  Examples:
    >>> logits = jnp.ones((2, 3, 5))
    >>> sskd_transformed_loss(logits, logits, jnp.array([0, 1]))
    Array(0., dtype=float32)

  References:
    Xu et al., `Knowledge distillation meets self-supervision
    <https://arxiv.org/abs/2006.07114>`_, 2020; code xuguodong03/SSKD.
  """
  check_labels(labels, student_logits.shape[-1])
  student_logits, teacher_logits = as_pair(
    student_logits, teacher_logits, stop_teacher_gradient
  )
  student_logits = zero_masked(student_logits, where)
  teacher_logits = zero_masked(teacher_logits, where)
  labels = jnp.broadcast_to(labels[:, None], student_logits.shape[:2])
  values = kl_divergence(
    student_logits, teacher_logits, temperature=temperature
  )
  kept = _best_ranked(_rank(teacher_logits, labels), ratio, where, axis_name)
  scale = jnp.square(jnp.asarray(temperature, values.dtype))
  return scale * masked_mean(values, kept, axis_name=axis_name)


@validate
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
  r"""SSKD on similarities: which image is a transformed one most like?

  .. math::
    \ell = \operatorname{mean}_{i \in K} T^2 \, \mathrm{KL}(
      \mathrm{softmax}_j(\cos(\tilde e^T_i, e^T_j) / T) \Vert
      \mathrm{softmax}_j(\cos(\tilde e^S_i, e^S_j) / T))

  over the images j of the batch. K are all transformed images that the teacher
  finds most like their own original, and of the others a share `ratio`, those
  whose original has the best rank.

  Args:
    student_embeddings: `[batch, views, student_dims]`, the outputs of a
      projection head; the first view is the original, the others transformed.
    teacher_embeddings: `[batch, views, teacher_dims]`; they receive no
      gradient.
    temperature: T > 0. May be traced.
    ratio: in [0, 1]. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.
    where: which examples count, with all their views.
    chunk_size: of how many examples the similarities are held at a time, in
      the backward pass too; a static integer. None holds them whole.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, in nats; 0 if nothing is kept. Published weight: 10.

  Raises:
    ValueError: if batch or views differ, a static temperature is not above 0 or
      a static ratio is outside [0, 1].

  Of wrong images of equal rank the earlier are kept; in the authors' code it is
  left to the sorting.

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
    values = kl_divergence(
      _similarities(own_student, own, student),
      similar,
      temperature=temperature,
    )
    return values, _rank(similar, own)

  parts = student.transformed, teacher.transformed, student.own
  values, ranks = in_chunks(compared, parts, chunk_size)
  kept = _best_ranked(ranks, ratio, where, axis_name)
  scale = jnp.square(jnp.asarray(temperature, values.dtype))
  return scale * masked_mean(values, kept, axis_name=axis_name)


@validate
def sskd_pretext_loss(
  embeddings: Float[Array, "batch views dims"],
  *,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""SSKD's pretext task: find the original of a transformed image.

  .. math::
    \ell = - \operatorname{mean}_i \log \mathrm{softmax}_j(
      \cos(\tilde e_i, e_j))_{j = i}

  It trains the teacher's projection head, on features that stay as they are.

  Args:
    embeddings: `[batch, views, dims]`; the first view is the original, the
      others transformed.
    where: which examples count, with all their views.
    chunk_size: as in `sskd_similarity_loss`.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, in nats. The authors train with it for 60 epochs beforehand.

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
    embeddings.astype(compute_dtype(embeddings)), where, axis_name
  )

  def surprises(part: tuple[Array, Array]) -> Array:
    transformed, own = part
    similarities = _similarities(transformed, own, images)
    chosen = jnp.take_along_axis(similarities, own[..., None], -1)[..., 0]
    return jax.nn.logsumexp(similarities, -1) - chosen

  values = in_chunks(surprises, (images.transformed, images.own), chunk_size)
  return masked_mean(values, where, axis_name=axis_name)


class _Images(NamedTuple):
  """Unit embeddings: this device's transformed images, and all originals."""

  transformed: Float[Array, "batch transforms dims"]
  own: Int[Array, "batch transforms"]
  originals: Float[Array, "whole dims"]
  columns: Bool[Array, " whole"] | None


def _images(
  embeddings: Float[Array, "batch views dims"],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> _Images:
  unitary = normalize_as_torch(zero_masked(embeddings, where))
  places = gathered_positions(len(embeddings), axis_name)
  return _Images(
    unitary[:, 1:],
    jnp.broadcast_to(places[:, None], unitary[:, 1:].shape[:2]),
    gather_batch(unitary[:, 0], axis_name),
    None if where is None else gather_batch(where, axis_name),
  )


def _similarities(
  transformed: Float[Array, "rows transforms dims"],
  own: Int[Array, "rows transforms"],
  images: _Images,
) -> Float[Array, "rows transforms whole"]:
  """Returns the cosines of transformed images with all originals.

  -inf at an original that does not count, but 0 at one's own, so that no row is
  empty.
  """
  cosines = jnp.einsum(
    "bvd,nd->bvn", transformed, images.originals, precision="highest"
  )
  if images.columns is None:
    return cosines
  is_own = jax.nn.one_hot(own, len(images.originals), dtype=bool)
  masked = jnp.where(is_own, 0.0, -jnp.inf)
  return jnp.where(images.columns[None, None], cosines, masked)


def _rank(scores: Array, chosen: Array) -> Array:
  """How many scores of a row come before the chosen one."""
  own = jnp.take_along_axis(scores, chosen[..., None], -1)
  index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  earlier = index < chosen[..., None]
  return jnp.sum((scores > own) | ((scores == own) & earlier), -1)


def _best_ranked(
  ranks: Array, ratio: ArrayLike, where: Array | None, axis_name: str | None
) -> Array:
  """Which have rank 0, or are in the best share of the others."""
  check_range("ratio", ratio, 0.0, 1.0)
  size = ranks.size
  if where is None:
    where = jnp.ones(ranks.shape[:1], bool)
  candidates = jnp.broadcast_to(where[:, None], ranks.shape)
  wrong = candidates & (ranks > 0)
  everywhere = gather_batch(
    jnp.where(wrong, ranks, jnp.iinfo(ranks.dtype).max).ravel(), axis_name
  )
  order = jnp.argsort(jnp.argsort(everywhere, stable=True))
  order = local_rows(order, size, axis_name)
  count = jnp.sum(gather_batch(wrong, axis_name))
  # The share of a whole number must not be rounded down to the one before.
  keep = jnp.floor(count * jnp.asarray(ratio, float) * (1 + 1e-6))
  best = order.reshape(ranks.shape) < keep
  return candidates & ((ranks == 0) | (wrong & best))
