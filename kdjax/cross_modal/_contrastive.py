"""Contrastive losses of pairs: CLIP, CLIP-KD and affinity mimicking."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def clip_loss(
  image: Float[Array, "batch dims"],
  text: Float[Array, "batch dims"],
  *,
  scale: ArrayLike = 1 / 0.07,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""CLIP: each image finds its text among all, and each text its image.

  .. math::
    \ell = \frac12 \operatorname*{mean}_i \bigl[H(i, s \, u_i \cdot v)
                                             + H(i, s \, v_i \cdot u)\bigr]

  with the unit vectors u of images and v of texts.

  Args:
    image: `[batch, dims]`, embeddings, normalized here.
    text: `[batch, dims]`, of the same examples in the same order.
    scale: s, the inverse temperature: the exponential of the learned parameter,
      which CLIP keeps below 100. May be traced.
    where: `[batch]`, True for the pairs to use.
    axis_name: the mapped axis over which the batch is split: all images meet
      all texts.

  Returns:
    A scalar; 0 if all pairs are masked.

  Raises:
    ValueError: if the shapes differ, as those of unpaired batches.
    TypeError: if an array is not floating-point.

  CLIP-KD's augmented feature distillation (AFD, weight 1) is this loss of
  linear maps of student and teacher embeddings side by side.

  Examples:
    >>> rows = jnp.eye(2)
    >>> print(f"{clip_loss(rows, rows, scale=1.0):.4f}")
    0.3133

  References:
    Radford et al., `Learning transferable visual models from natural language
    supervision <https://arxiv.org/abs/2103.00020>`_, 2021.
  """
  return _matching(
    ((image, text), (text, image)), scale, where=where, axis_name=axis_name
  )


@ops.validate
def clip_feature_loss(
  student_image: Float[Array, "batch dims"],
  student_text: Float[Array, "batch dims"],
  teacher_image: Float[Array, "batch dims"],
  teacher_text: Float[Array, "batch dims"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Feature distillation of CLIP-KD (FD): embeddings of both towers.

  .. math::
    \ell = \frac1{BD} \lVert u^S - u^T \rVert_2^2
         + \frac1{BD} \lVert v^S - v^T \rVert_2^2

  with unit vectors u of images and v of texts.

  Args:
    student_image: `[batch, dims]`, normalized here. Where the student is
      narrower, its embeddings are mapped linearly first.
    student_text: `[batch, dims]`, of the same examples.
    teacher_image: `[batch, dims]`, normalized here; no gradient.
    teacher_text: `[batch, dims]`; no gradient.
    where: `[batch]`, True for the pairs to use.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar, a mean over batch and width. Published weight: 2000, since a unit
    vector's mean square is 1 / D.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  Examples:
    >>> a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> print(clip_feature_loss(a, a, a, b))
    1.0

  References:
    Yang et al., `CLIP-KD: an empirical study of CLIP model distillation
    <https://arxiv.org/abs/2307.12732>`_, 2024.
  """
  total = jnp.zeros((), ops.compute_dtype(student_image))
  for ours, theirs in (
    (student_image, teacher_image),
    (student_text, teacher_text),
  ):
    student, teacher = (
      ops.normalize_as_torch(ops.masked_rows(x, where)[0])
      for x in (ours, jax.lax.stop_gradient(theirs))
    )
    squares = jnp.square(student - teacher)
    total = total + ops.masked_mean(squares, where, axis_name=axis_name)
  return total


@ops.validate
def clip_relation_loss(
  student_image: Float[Array, "batch dims"],
  student_text: Float[Array, "batch dims"],
  teacher_image: Float[Array, "batch teacher_dims"],
  teacher_text: Float[Array, "batch teacher_dims"],
  *,
  student_scale: ArrayLike,
  teacher_scale: ArrayLike,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Contrastive relational distillation of CLIP-KD (CKD, "CRD" in the paper).

  .. math::
    \ell = \frac12 \operatorname*{mean}_i \bigl[
      \mathrm{KL}(p_i^T \Vert p_i^S) + \mathrm{KL}(q_i^T \Vert q_i^S)\bigr]

  with the softmaxes p of an image's similarities to all texts, and q of a
  text's to all images.

  Args:
    student_image: `[batch, dims]`, normalized here.
    student_text: `[batch, dims]`, of the same examples.
    teacher_image: `[batch, teacher_dims]`, normalized here; no gradient.
    teacher_text: `[batch, teacher_dims]`; no gradient.
    student_scale: what multiplies the student's cosines: the exponential of its
      learned parameter. May be traced.
    teacher_scale: the teacher's own one; no gradient.
    where: `[batch]`, True for the pairs to use.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar; 0 if all pairs are masked. Published weight: 1.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  Examples:
    >>> rows = jnp.eye(2)
    >>> loss = clip_relation_loss(
    ...   rows, rows, rows, rows, student_scale=1.0, teacher_scale=1.0
    ... )
    >>> print(loss)
    0.0

  References:
    Yang et al., `CLIP-KD: an empirical study of CLIP model distillation
    <https://arxiv.org/abs/2307.12732>`_, 2024.
  """
  return _relations(
    ops.forward_kl,
    (student_image, student_text),
    (teacher_image, teacher_text),
    (student_scale, teacher_scale),
    where,
    axis_name,
  )


@ops.validate
def affinity_mimicking_loss(
  student_image: Float[Array, "batch dims"],
  student_text: Float[Array, "batch dims"],
  teacher_image: Float[Array, "batch teacher_dims"],
  teacher_text: Float[Array, "batch teacher_dims"],
  *,
  student_scale: ArrayLike,
  teacher_scale: ArrayLike,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Affinity mimicking (TinyCLIP): cross-entropies of similarities.

  .. math::
    \ell = \frac12 \operatorname*{mean}_i \bigl[
      H(p_i^T, p_i^S) + H(q_i^T, q_i^S)\bigr]

  It is `clip_relation_loss` plus the entropy of the teacher's similarities,
  with the same gradient.

  Args:
    student_image: `[batch, dims]`, normalized here.
    student_text: `[batch, dims]`, of the same examples.
    teacher_image: `[batch, teacher_dims]`, normalized here; no gradient.
    teacher_text: `[batch, teacher_dims]`; no gradient.
    student_scale: what multiplies the student's cosines. May be traced.
    teacher_scale: what multiplies the teacher's; no gradient.
    where: `[batch]`, True for the pairs to use.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar; 0 if all pairs are masked. TinyCLIP trains with this loss alone
    (weight 1) in its stages of inherited weights.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  Examples:
    >>> rows = jnp.eye(2)
    >>> loss = affinity_mimicking_loss(
    ...   rows, rows, rows, rows, student_scale=1.0, teacher_scale=0.0
    ... )
    >>> print(f"{loss:.4f}")
    0.8133

  References:
    Wu et al., `TinyCLIP: CLIP distillation via affinity mimicking and weight
    inheritance <https://arxiv.org/abs/2309.12314>`_, 2023.
  """

  def entropy(
    teacher: Array, student: Array, temperature: float, columns: Array
  ) -> Array:
    del temperature
    p = jax.nn.softmax(jnp.where(columns, teacher, -1e30))
    p = jnp.where(columns, p, 0.0)
    return ops.cross_entropy(jnp.where(columns, student, -jnp.inf), p)

  return _relations(
    entropy,
    (student_image, student_text),
    (teacher_image, teacher_text),
    (student_scale, teacher_scale),
    where,
    axis_name,
  )


@ops.validate
def clip_interactive_loss(
  student_image: Float[Array, "batch dims"],
  student_text: Float[Array, "batch dims"],
  teacher_image: Float[Array, "batch dims"],
  teacher_text: Float[Array, "batch dims"],
  *,
  scale: ArrayLike = 1 / 0.07,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Interactive contrastive learning of CLIP-KD (ICL): the teacher's towers.

  .. math::
    \ell = \frac12 \operatorname*{mean}_i \bigl[H(i, s \, u_i^S \cdot v^T)
                                             + H(i, s \, v_i^S \cdot u^T)\bigr]

  Args:
    student_image: `[batch, dims]`, anchors, normalized here. Where the student
      is narrower, its embeddings are mapped linearly first.
    student_text: `[batch, dims]`, of the same examples.
    teacher_image: `[batch, dims]`, candidates, normalized here; no gradient.
    teacher_text: `[batch, dims]`; no gradient.
    scale: s, what multiplies the cosines. May be traced.
    where: `[batch]`, True for the pairs to use.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar; 0 if all pairs are masked. Published weight: 1.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  The authors learn the scale but never take its exponential: theirs starts at
  log(1 / 0.07) = 2.66.

  Examples:
    >>> rows = jnp.eye(2)
    >>> print(f"{clip_interactive_loss(rows, rows, rows, rows, scale=1.0):.4f}")
    0.3133

  References:
    Yang et al., `CLIP-KD: an empirical study of CLIP model distillation
    <https://arxiv.org/abs/2307.12732>`_, 2024.
  """
  image, text = jax.lax.stop_gradient((teacher_image, teacher_text))
  return _matching(
    ((student_image, text), (student_text, image)),
    scale,
    where=where,
    axis_name=axis_name,
  )


@ops.validate
def clip_gradient_loss(
  student_image: Float[Array, "batch dims"],
  student_text: Float[Array, "batch dims"],
  teacher_image: Float[Array, "batch dims"],
  teacher_text: Float[Array, "batch dims"],
  *,
  student_scale: ArrayLike,
  teacher_scale: ArrayLike,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Gradient distillation of CLIP-KD (GD): gradients of the contrastive loss.

  .. math::
    \ell = \sum_{a, k} \frac1{BD} \lVert g_a^S - g_a^T \rVert_2^2
         + \frac1{BD} \lVert g_k^S - g_k^T \rVert_2^2

  over images as anchors a and texts as candidates k, and the other way round,
  with the gradients g of mean H(i, s a_i . k) by the unit vectors.

  Args:
    student_image: `[batch, dims]`, normalized here. Where the student is
      narrower, its embeddings are mapped linearly first.
    student_text: `[batch, dims]`, of the same examples.
    teacher_image: `[batch, dims]`, normalized here; no gradient.
    teacher_text: `[batch, dims]`; no gradient.
    student_scale: what multiplies the student's cosines. May be traced.
    teacher_scale: what multiplies the teacher's; no gradient.
    where: `[batch]`, True for the pairs to use.
    axis_name: the mapped axis over which the batch is split, whose embeddings
      are gathered.

  Returns:
    A scalar, a mean over batch and width; 0 if all pairs are masked. Published
    weight: 1e8.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  The authors pass the scale where their function expects the temperature: what
  they trained with, at this weight, is this loss with 1 / scale.

  Examples:
    >>> rows = jnp.eye(2)
    >>> loss = clip_gradient_loss(
    ...   rows, rows, rows, rows, student_scale=1.0, teacher_scale=1.0
    ... )
    >>> print(loss)
    0.0

  References:
    Yang et al., `CLIP-KD: an empirical study of CLIP model distillation
    <https://arxiv.org/abs/2307.12732>`_, 2024.
  """
  image, text = jax.lax.stop_gradient((teacher_image, teacher_text))
  rows = []
  mask = jnp.ones(student_image.shape[0], bool) if where is None else where
  everyone = ops.gather_batch(mask, axis_name)
  for x in (student_image, student_text, image, text):
    unit = ops.normalize_as_torch(ops.masked_rows(x, where)[0])
    rows.append(ops.gather_batch(unit, axis_name))
  ours = ops.as_number("student_scale", student_scale, rows[0].dtype)
  theirs = ops.as_number("teacher_scale", teacher_scale, rows[0].dtype)
  theirs = jax.lax.stop_gradient(theirs)
  count = jnp.maximum(jnp.sum(everyone), 1).astype(rows[0].dtype)
  total = jnp.zeros((), rows[0].dtype)
  for a, k in ((0, 1), (1, 0)):
    student = _gradients(rows[a], rows[k], ours, everyone, count)
    teacher = _gradients(rows[2 + a], rows[2 + k], theirs, everyone, count)
    for x, y in zip(student, teacher, strict=True):
      total = total + jnp.sum(jnp.square(x - y)) / (count * x.shape[1])
  return ops.mean_over_devices(total, axis_name)


def _gradients(
  anchors: Array, candidates: Array, scale: Array, mask: Array, count: Array
) -> tuple[Array, Array]:
  """Returns the gradients of mean H(i, scale a_i . k) by both sides."""
  cosines = jnp.matmul(anchors, candidates.T, precision="highest")
  logits = jnp.where(mask[None], scale * cosines, -jnp.inf)
  # Without any pair, a row of -inf has no softmax.
  logits = jnp.where(jnp.any(mask), logits, 0.0)
  identity = jnp.eye(mask.size, dtype=logits.dtype)
  gaps = jnp.where(mask[:, None], jax.nn.softmax(logits) - identity, 0.0)
  gaps = gaps * scale / count
  return (
    jnp.matmul(gaps, candidates, precision="highest"),
    jnp.matmul(gaps.T, anchors, precision="highest"),
  )


def _matching(
  sides: tuple[tuple[Array, Array], ...],
  scale: ArrayLike,
  *,
  where: Array | None,
  axis_name: str | None,
) -> Array:
  """Returns the mean cross-entropy of anchors with their candidates."""
  total = []
  for anchors, candidates in sides:
    logits, columns = _similarities(
      "scale", anchors, candidates, scale, where, axis_name
    )
    logits = jnp.where(columns, logits, -jnp.inf)
    labels = ops.gathered_positions(anchors.shape[0], axis_name)
    total.append(ops.cross_entropy(logits, labels))
  values = jnp.mean(jnp.stack(total), 0)
  return ops.masked_mean(values, where, axis_name=axis_name)


def _relations(
  divergence: Callable[..., Array],
  student: tuple[Array, Array],
  teacher: tuple[Array, Array],
  scales: tuple[ArrayLike, ArrayLike],
  where: Array | None,
  axis_name: str | None,
) -> Array:
  """Returns the mean divergence of similarities, in both directions."""
  teacher, fixed = jax.lax.stop_gradient(
    (teacher, jnp.asarray(scales[1], jnp.result_type(float)))
  )
  values = []
  for a, k in ((0, 1), (1, 0)):
    ours, columns = _similarities(
      "student_scale", student[a], student[k], scales[0], where, axis_name
    )
    theirs, _ = _similarities(
      "teacher_scale", teacher[a], teacher[k], fixed, where, axis_name
    )
    values.append(divergence(theirs, ours, 1.0, columns))
  mean = jnp.mean(jnp.stack(values), 0)
  return ops.masked_mean(mean, where, axis_name=axis_name)


def _similarities(
  name: str,
  anchors: Array,
  candidates: Array,
  scale: ArrayLike,
  where: Array | None,
  axis_name: str | None,
) -> tuple[Float[Array, "batch whole"], Bool[Array, "batch whole"]]:
  """Returns scaled cosines of this device's anchors with all candidates."""
  rows, mask = ops.masked_rows(anchors, where)
  others, _ = ops.masked_rows(candidates, where)
  rows, others = ops.normalize_as_torch(rows), ops.normalize_as_torch(others)
  whole = ops.gather_batch(others, axis_name)
  cosines = jnp.matmul(rows, whole.T, precision="highest")
  columns = ops.gather_batch(mask, axis_name)[None] > 0
  factor = ops.as_number(name, scale, cosines.dtype)
  return factor * cosines, jnp.broadcast_to(columns, cosines.shape)
