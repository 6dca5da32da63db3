"""LUCIR: a unified classifier that is learned incrementally by rebalancing."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def lucir_loss(
  student_embeddings: Float[Array, "*batch dims"],
  past_embeddings: Float[Array, "*batch dims"],
) -> Float[Array, "*batch"]:
  r"""LUCIR's less-forget constraint: directions of embeddings are kept.

  .. math:: \ell = 1 - \cos(f(x), f^\text{past}(x))

  Args:
    student_embeddings: `[*batch, dims]`.
    past_embeddings: `[*batch, dims]`, of the network before the current task,
      on the same inputs; no gradient.

  Returns:
    One value an example, between 0 and 2. Published weight: 5 times
    sqrt(past classes / new classes) (CIFAR-100), beside the cross-entropy.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  It is computed as half the squared distance of unit vectors, which is exact
  near 0. PODNet's POD-flat is the same.

  Examples:
    >>> print(lucir_loss(jnp.array([[0.0, 2.0]]), jnp.array([[3.0, 0.0]])))
    [1.]

  References:
    Hou et al., `Learning a unified classifier incrementally via rebalancing
    <https://openaccess.thecvf.com/content_CVPR_2019/html/Hou_Learning_a_Unified_Classifier_Incrementally_via_Rebalancing_CVPR_2019_paper.html>`_,
    2019.
  """
  ours, past = (
    ops.normalize_as_torch(x.astype(ops.compute_dtype(x)))
    for x in (student_embeddings, jax.lax.stop_gradient(past_embeddings))
  )
  # PyTorch's cosine of a zero vector is 0, at the distance 1.
  zero = ~jnp.any(ours != 0, -1) | ~jnp.any(past != 0, -1)
  return jnp.where(zero, 1.0, jnp.sum(jnp.square(ours - past), -1) / 2)


@ops.validate
def lucir_margin_loss(
  cosines: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  new_classes: Bool[Array, " classes"],
  *,
  margin: ArrayLike = 0.5,
  num_negatives: int = 2,
) -> Float[Array, "*batch"]:
  r"""LUCIR's margin ranking loss: new classes stay away from replayed examples.

  .. math::
    \ell = \frac1K \sum_{k=1}^K \max(0, m - \cos_y + \cos_{(k)})

  with the K largest cosines of new classes. It is 0 for an example of a new
  class.

  Args:
    cosines: `[*batch, classes]`, of embeddings and class weights, before the
      classifier's scale.
    labels: `[*batch]`.
    new_classes: `[classes]`, True for the classes of the current task.
    margin: m. May be traced.
    num_negatives: K, at most the number of classes. Classes that are not new
      never count.

  Returns:
    One value an example. The authors average over replayed examples alone:
    `ops.masked_mean(losses, ~new_classes[labels])`. Published weight: 1.

  Raises:
    ValueError: if shapes do not fit, or K is not within the classes.
    TypeError: if an array has a wrong dtype or K is no integer.

  Examples:
    >>> cosines = jnp.array([[0.5, 0.25, -0.5]])
    >>> new = jnp.array([False, True, True])
    >>> print(lucir_margin_loss(cosines, jnp.array([0]), new))
    [0.125]

  References:
    Hou et al., `Learning a unified classifier incrementally via rebalancing
    <https://openaccess.thecvf.com/content_CVPR_2019/html/Hou_Learning_a_Unified_Classifier_Incrementally_via_Rebalancing_CVPR_2019_paper.html>`_,
    2019, equation 8.
  """
  classes = cosines.shape[-1]
  ops.check_integer("lucir_margin_loss: num_negatives", num_negatives, 1)
  if num_negatives > classes:
    raise ValueError(
      f"lucir_margin_loss: num_negatives is {num_negatives}; expected at most "
      f"the number of classes, {classes}."
    )
  cosines = cosines.astype(ops.compute_dtype(cosines))
  known = ops.check_labels(labels, classes)
  own = jnp.take_along_axis(cosines, known[..., None], -1)
  new = jnp.where(jnp.broadcast_to(new_classes, cosines.shape), cosines, -2.0)
  hardest, chosen = jax.lax.top_k(new, num_negatives)
  hinge = jax.nn.relu(
    ops.as_number("margin", margin, own.dtype) - own + hardest
  )
  counted = new_classes[chosen]
  count = jnp.maximum(jnp.sum(counted, -1), 1)
  values = jnp.sum(jnp.where(counted, hinge, 0.0), -1) / count
  values = jnp.where(new_classes[known], 0.0, values)
  return ops.mask_unknown_labels(values, labels, classes)
