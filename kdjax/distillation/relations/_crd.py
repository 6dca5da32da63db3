"""Contrastive representation distillation (CRD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.distillation._batch_rows import (
  Pairs,
  Rows,
  batch_rows,
  over_rows,
  pairs,
  unit_rows,
)
from kdjax.distillation._inputs import teacher_side


@ops.validate
def crd_loss(
  anchors: Float[Array, "batch dims"],
  positives: Float[Array, "batch dims"],
  negatives: Float[Array, "batch negatives dims"],
  *,
  num_examples: ArrayLike,
  normalizer: ArrayLike,
  temperature: ArrayLike = 0.07,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Contrastive representation distillation (CRD): one of two directions.

  .. math::
    \ell = -\log \frac{P(x, x^+)}{P(x, x^+) + c + \epsilon}
           - \sum_{k=1}^K \log \frac{c}{P(x, x^-_k) + c + \epsilon}, \qquad
    P(x, y) = \frac{e^{x \cdot y / \tau}}{Z}, \quad c = \frac KN

  This is noise-contrastive estimation with noise probability 1 / N an example
  and epsilon = 1e-7. The method adds two directions: the student's anchors with
  the teacher's positives and negatives, and the teacher's anchors with the
  student's. `kdjax.methods.crd` has the memory banks of the negatives and
  embeds both networks into vectors of unit norm.

  Args:
    anchors: `[batch, dims]`, embeddings of unit norm of one network.
    positives: `[batch, dims]`, the other network's embeddings of the same
      examples; they receive no gradient.
    negatives: `[batch, negatives, dims]`, the other network's embeddings of
      other examples; they receive no gradient.
    num_examples: N, the number of examples from which the negatives are drawn.
      May be traced.
    normalizer: Z, a constant from the first batch, see `crd_normalizer`. May be
      traced.
    temperature: tau. May be traced.
    stop_teacher_gradient: False lets gradients reach positives and negatives.

  Returns:
    One value an example. Published weight of the sum of both directions: 0.8,
    with 16384 negatives.

  Raises:
    ValueError: if shapes differ or a static number is not above 0.
    TypeError: if the embeddings are not floating-point.

  The computation uses logarithms, so that no exponential overflows.

  Examples:
    >>> x = jnp.array([[1.0, 0.0]])
    >>> values = crd_loss(x, x, -x[:, None], num_examples=1, normalizer=1e3)
    >>> print(f"{values[0]:.4f}")
    0.0006

  References:
    Tian, Krishnan and Isola, `Contrastive representation distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020, equation 18.
  """
  ops.check_positive("normalizer", normalizer)
  positives, negatives = (
    teacher_side(x, stop_teacher_gradient) for x in (positives, negatives)
  )
  positive, negative = _scores(anchors, positives, negatives, temperature)
  log_normalizer = jnp.log(
    ops.as_number("normalizer", normalizer, positive.dtype)
  )
  return crd_nce_loss(positive, negative, log_normalizer, num_examples)


@ops.validate
def crd_normalizer(
  anchors: Float[Array, "batch dims"],
  positives: Float[Array, "batch dims"],
  negatives: Float[Array, "batch negatives dims"],
  *,
  num_examples: ArrayLike,
  temperature: ArrayLike = 0.07,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Normalizer Z of CRD, estimated from a batch.

  .. math::
    Z = N \operatorname*{mean}_{i, k} e^{x_i \cdot y_{ik} / \tau}

  over positives and negatives y. The published code computes Z from the first
  batch and keeps it.

  Args:
    anchors: `[batch, dims]`.
    positives: `[batch, dims]`.
    negatives: `[batch, negatives, dims]`.
    num_examples: N. May be traced.
    temperature: tau. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar without gradient; 0 if `where` is all False. At temperatures below
    about 0.012 the value may exceed float32; `kdjax.methods.crd` keeps its
    logarithm.

  Raises:
    ValueError: if shapes differ or a static number is not above 0.
    TypeError: if the embeddings are not floating-point.

  Examples:
    >>> x = jnp.zeros((1, 2))
    >>> crd_normalizer(x, x, x[:, None], num_examples=5)
    Array(5., dtype=float32)

  References:
    Tian, Krishnan and Isola, `Contrastive representation distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020, and their code.
  """
  positive, negative = _scores(anchors, positives, negatives, temperature)
  scores = jnp.concatenate([positive[:, None], negative], 1)
  return jnp.exp(crd_log_normalizer(scores, num_examples, where, axis_name))


def crd_log_normalizer(
  scores: Float[Array, "batch candidates"],
  num_examples: ArrayLike,
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> Float[Array, ""]:
  """Logarithm of the normalizer Z of CRD, from scores x . y / tau.

  Args:
    scores: `[batch, candidates]`.
    num_examples: the number of training examples.
    where: `[batch]`, True for the examples in the mean; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar without gradient; -inf if `where` is all False.

  References:
    Tian, Krishnan and Isola, `Contrastive representation distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020.
  """
  scores = jax.lax.stop_gradient(scores)
  rows = None if where is None else where[:, None]
  top = jnp.max(scores, where=rows, initial=-jnp.inf)
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  top = jnp.where(top == -jnp.inf, 0.0, top)
  mean = ops.masked_mean(jnp.exp(scores - top), where, axis_name=axis_name)
  return top + jnp.log(mean * _size(num_examples, mean.dtype))


def crd_nce_loss(
  positive: Float[Array, " batch"],
  negative: Float[Array, "batch negatives"],
  log_normalizer: Float[Array, ""],
  num_examples: ArrayLike,
) -> Float[Array, " batch"]:
  """Noise-contrastive loss of CRD, from scores x . y / tau.

  Args:
    positive: scores of the positive pairs, `[batch]`.
    negative: scores of the negative pairs, `[batch, negatives]`.
    log_normalizer: log Z, from `crd_log_normalizer`.
    num_examples: the number of training examples.

  Returns:
    `[batch]`, one value an example.

  References:
    Tian, Krishnan and Isola, `Contrastive representation distillation
    <https://arxiv.org/abs/1910.10699>`_, 2020.
  """
  noise = negative.shape[1] / _size(num_examples, positive.dtype)
  floor = noise + 1e-7
  # -log(P / (P + floor)) and -log(noise / (P + floor)), with P = exp(score).
  boundary = log_normalizer + jnp.log(floor)
  wrong = jax.nn.softplus(negative - boundary) + jnp.log(floor / noise)
  return jax.nn.softplus(boundary - positive) + jnp.sum(wrong, 1)


def _size(num_examples: ArrayLike, dtype: jnp.dtype) -> Array:
  ops.check_positive("num_examples", num_examples)
  return ops.as_number("num_examples", num_examples, dtype)


def _scores(
  anchors: Array, positives: Array, negatives: Array, temperature: ArrayLike
) -> tuple[Float[Array, " batch"], Float[Array, "batch negatives"]]:
  ops.check_positive("temperature", temperature)
  dtype = ops.compute_dtype(anchors)
  anchors, positives, negatives = (
    x.astype(dtype) for x in (anchors, positives, negatives)
  )
  scale = ops.as_number("temperature", temperature, dtype)
  negative = jnp.einsum("bd,bkd->bk", anchors, negatives, precision="highest")
  return jnp.sum(anchors * positives, 1) / scale, negative / scale


@ops.validate
def crd_in_batch_loss(
  student_embeddings: Float[Array, "batch dims"],
  teacher_embeddings: Float[Array, "batch dims"],
  *,
  temperature: ArrayLike = 0.07,
  where: Bool[Array, " batch"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, ""]:
  r"""Contrastive distillation within the batch (CRD without a memory bank).

  .. math::
    \ell = -\frac1{2n} \sum_i \Bigl[
        \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
      + \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \Bigr], \qquad
    s_{ij} = \cos(x^S_i, x^T_j) / \tau

  The loss is InfoNCE in both directions: the student's embedding of an example
  identifies the teacher's embedding of the same example among the batch, and
  the teacher's identifies the student's.

  Args:
    student_embeddings: `[batch, dims]`, of any norm.
    teacher_embeddings: `[batch, dims]`; they receive no gradient.
    temperature: tau. May be traced.
    where: `[batch]`, True for the examples in the loss; None takes all.
    chunk_size: how many rows of both matrices of scores are in memory at a
      time, in the backward pass too; a static integer. None computes
      all rows at once.
    axis_name: the mapped axis over which the batch is split. The examples of
      all devices are negatives.
    stop_teacher_gradient: False lets gradients reach the teacher, to train an
      embedding of it, see `kdjax.methods.crd_in_batch`.

  Returns:
    A scalar; log n for embeddings that are all equal.

  Raises:
    ValueError: if the shapes differ or a static temperature is not above 0.
    TypeError: if the embeddings are not floating-point.

  CRD's authors recommend this form for large data sets, for which a memory bank
  does not fit; the formula is that of CLIP. No weight is published.

  Examples:
    >>> rows = jnp.ones((4, 2))
    >>> print(f"{crd_in_batch_loss(rows, rows):.4f}")  # log 4
    1.3863

  References:
    Oord, Li and Vinyals, `Representation learning with contrastive predictive
    coding <https://arxiv.org/abs/1807.03748>`_, 2018; Radford et al.,
    `Learning transferable visual models from natural language supervision
    <https://arxiv.org/abs/2103.00020>`_, 2021.
  """
  ops.check_positive("temperature", temperature)
  teacher_embeddings = teacher_side(teacher_embeddings, stop_teacher_gradient)
  student, teacher = (
    unit_rows(batch_rows(x, where, axis_name))
    for x in (student_embeddings, teacher_embeddings)
  )
  pair = pairs(student_embeddings, where, axis_name)
  scale = ops.as_number("temperature", temperature, student.local.dtype)

  def scores(queries: Array, keys: Array) -> Array:
    return jnp.matmul(queries, keys.T, precision="highest") / scale

  def log_sum(scores: Array, pair: Pairs) -> Array:
    # A masked row keeps its own score, so that its sum is not empty.
    seen = None if where is None else pair.columns[None] | pair.diagonal
    return jax.nn.logsumexp(scores, 1, where=seen)

  def both(student: Rows, teacher: Rows, pair: Pairs) -> Array:
    from_student = scores(student.local, teacher.whole)
    # On one device, one matrix has the scores of both directions.
    whole = student.local is student.whole
    from_teacher = (
      from_student.T if whole else scores(teacher.local, student.whole)
    )
    own = jnp.sum(student.local * teacher.local, 1) / scale
    return log_sum(from_student, pair) + log_sum(from_teacher, pair) - 2 * own

  values = over_rows(both, student, teacher, pair=pair, chunk_size=chunk_size)
  return ops.masked_mean(values / 2, pair.rows, axis_name=axis_name)
