"""ReFilled: reuse of a teacher of other classes, in two stages."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def refilled_relation_loss(
  student_embeddings: Float[Array, "batch dims"],
  teacher_embeddings: Float[Array, "batch teacher_dims"],
  labels: Int[Array, " batch"],
  *,
  temperature: ArrayLike = 4.0,
  margin: ArrayLike = 0.2,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""ReFilled, stage 1: comparisons of examples are kept.

  .. math::
    \ell = \operatorname*{mean}_{(a, p)} \mathrm{KL}(\rho^T \Vert \rho^S), \quad
    \rho = \mathrm{softmax}\bigl(-[d(a, p), d(a, n_1), \dots] / T\bigr)

  with Euclidean distances d of unit embeddings, over all pairs (a, p) of one
  class and the semi-hard negatives n of the student: 0 < d(a, n) - d(a, p) <=
  margin.

  Args:
    student_embeddings: `[batch, dims]`, normalized here.
    teacher_embeddings: `[batch, teacher_dims]`, of a teacher whose classes may
      be others; no gradient.
    labels: `[batch]`, of the student's task.
    temperature: T > 0. May be traced.
    margin: of the semi-hard negatives, whose choice has no gradient. May be
      traced.
    where: `[batch]`, True for the examples to use.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar, the mean over the pairs that have a negative; 0 if there is none.
    Published weight: 1000.

  Raises:
    ValueError: if the batches differ in size.
    TypeError: if an array has a wrong dtype.

  This is the authors' tuple form (`flag_merge`). Their default form compares
  triplets, and its code joins the two probabilities along the batch.

  Examples:
    >>> rows = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> print(refilled_relation_loss(rows, rows, labels))
    0.0

  References:
    Ye, Lu and Zhan, `Distilling cross-task knowledge via relationship matching
    <https://openaccess.thecvf.com/content_CVPR_2020/html/Ye_Distilling_Cross-Task_Knowledge_via_Relationship_Matching_CVPR_2020_paper.html>`_,
    2020.
  """
  student, mask = ops.masked_rows(student_embeddings, where)
  teacher, _ = ops.masked_rows(jax.lax.stop_gradient(teacher_embeddings), where)
  ours, theirs = (
    _distances(ops.normalize_as_torch(x), axis_name) for x in (student, teacher)
  )
  own = ops.gathered_positions(labels.size, axis_name)
  everyone, used = (ops.gather_batch(x, axis_name) for x in (labels, mask))
  rows = (mask[:, None] > 0) & (used[None] > 0)
  same = labels[:, None] == everyone[None]
  other = own[:, None] != jnp.arange(everyone.size)[None]
  gaps = jax.lax.stop_gradient(ours[:, None] - ours[..., None])
  width = ops.as_number("margin", margin, gaps.dtype)
  negative = (gaps > 0) & (gaps <= width) & (rows & ~same)[:, None]

  def logits(distances: Array) -> Array:
    positive = distances[..., None]
    others = jnp.broadcast_to(distances[:, None], negative.shape)
    return -jnp.concatenate([positive, others], -1)

  members = jnp.concatenate([jnp.ones_like(negative[..., :1]), negative], -1)
  values = ops.forward_kl(logits(theirs), logits(ours), temperature, members)
  pairs = rows & same & other & jnp.any(negative, -1)
  # Comparisons lose NaN, which must reach the caller.
  pairs |= rows & jnp.isnan(ours + theirs)
  values = ops.keep_nan(values, ours + theirs)
  return ops.masked_mean(values, pairs, axis_name=axis_name)


def _distances(rows: Array, axis_name: str | None) -> Array:
  """Returns Euclidean distances of this device's rows to all rows."""
  whole = ops.gather_batch(rows, axis_name)
  return ops.safe_norm(rows[:, None] - whole[None])


@ops.validate
def refilled_class_loss(
  student_logits: Float[Array, "batch classes"],
  teacher_embeddings: Float[Array, "batch dims"],
  class_centers: Float[Array, "classes dims"],
  where: Bool[Array, " classes"] | None = None,
  *,
  temperature: ArrayLike = 2.0,
) -> Float[Array, " batch"]:
  r"""ReFilled, stage 2: the teacher classifies by its class centers.

  .. math::
    \ell = \mathrm{KL}\bigl(\mathrm{softmax}(\phi(x) \cdot c / T) \Vert
                            \mathrm{softmax}(z^S / T)\bigr)

  Args:
    student_logits: `[batch, classes]`.
    teacher_embeddings: phi, `[batch, dims]`, as they are; no gradient.
    class_centers: c, `[classes, dims]`, unit vectors in the direction of the
      teacher's mean embedding of each class of the student; no gradient.
    where: `[classes]`, True for the classes that the batch has, which the
      authors use; None for all.
    temperature: T > 0. May be traced.

  Returns:
    One value an example, without a factor T^2. Published weight: 100, beside
    the cross-entropy.

  Raises:
    ValueError: if shapes do not fit or a static temperature is not above 0.
    TypeError: if an array has a wrong dtype.

  Examples:
    >>> centers = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> logits = jnp.array([[3.0, 4.0]])
    >>> print(refilled_class_loss(logits, jnp.array([[3.0, 4.0]]), centers))
    [0.]

  References:
    Ye, Lu and Zhan, `Distilling cross-task knowledge via relationship matching
    <https://openaccess.thecvf.com/content_CVPR_2020/html/Ye_Distilling_Cross-Task_Knowledge_via_Relationship_Matching_CVPR_2020_paper.html>`_,
    2020.
  """
  embeddings, centers = (
    jax.lax.stop_gradient(x).astype(ops.compute_dtype(x))
    for x in (teacher_embeddings, class_centers)
  )
  teacher = jnp.matmul(embeddings, centers.T, precision="highest")
  return ops.forward_kl(teacher, student_logits, temperature, where)
