"""Representation self-challenging (RSC)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def rsc_mask(
  classify: Callable[[Array], Array],
  features: Float[Array, "batch dims"],
  labels: Int[Array, " batch"],
  *,
  feature_drop: ArrayLike = 1 / 3,
  batch_drop: ArrayLike = 1 / 3,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "batch dims"]:
  r"""Representation self-challenging (RSC): masks the most predictive features.

  .. math::
    g_i = \nabla_f\, z_{y_i}(f_i), \qquad
    m^F_{ij} = [g_{ij} < Q_{1 - p}(g_i)]

  .. math::
    \delta_i = q_{y_i}(f_i) - q_{y_i}(m^F_i f_i), \qquad
    m_{ij} = m^F_{ij} \lor [\delta_i < Q_{1 - b}(\delta)]

  with linearly interpolated quantiles Q. The mask is 0 for the fraction p of an
  example's features with the largest gradients, in the fraction b of examples
  whose label loses the most probability. The loss is the cross-entropy of
  `classify(features * mask)`.

  Args:
    classify: the head; it maps features `[batch, dims]` to logits
      `[batch, classes]`, each row independently.
    features: `[batch, dims]`, pooled.
    labels: `[batch]`, integers.
    feature_drop: p, in [0, 1]. May be traced.
    batch_drop: b, in [0, 1]. May be traced.
    where: `[batch]`, True for the examples to use; the mask of the others is 1.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `[batch, dims]`, 0 or 1, without gradient. Comparisons are strict, as
    published: a `feature_drop` of 0 still masks the largest gradient, and equal
    gradients of an example mask all its features.

  Raises:
    ValueError: if a static fraction is outside [0, 1] or shapes do not fit.

  It masks pooled features by the signed gradient, as DomainBed and DeepDG do.
  The authors' network alternates between channels and positions of the last
  feature map.

  Examples:
    >>> weights = jnp.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> rsc_mask(lambda f: f @ weights, jnp.eye(3), jnp.zeros(3, int))
    Array([[0., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.]], dtype=float32)

  References:
    Huang et al., `Self-challenging improves cross-domain generalization
    <https://arxiv.org/abs/2007.02454>`_, 2020.
  """
  ops.check_range("feature_drop", feature_drop, 0.0, 1.0)
  ops.check_range("batch_drop", batch_drop, 0.0, 1.0)
  dtype = ops.compute_dtype(features)
  keep = jnp.ones(labels.shape, bool) if where is None else where
  rows = jnp.where(keep[:, None], features, jnp.zeros_like(features))
  rows = jax.lax.stop_gradient(rows)

  def of_labels(values: Array) -> Float[Array, " batch"]:
    known = ops.check_labels(labels, values.shape[-1])
    own = jnp.take_along_axis(values, known[:, None], axis=-1)[:, 0]
    return ops.mask_unknown_labels(own, labels, values.shape[-1])

  def label_logits(rows: Array) -> tuple[Array, Array]:
    logits = classify(rows)
    return jnp.sum(of_labels(logits).astype(dtype)), logits

  gradients, logits = jax.grad(label_logits, has_aux=True)(rows)
  gradients = gradients.astype(dtype)
  level = 1 - ops.as_number("feature_drop", feature_drop, dtype)
  all_features = jnp.ones(gradients.shape, bool)
  kept = gradients < _quantile(gradients, all_features, level)[:, None]

  masked_logits = classify(jnp.where(kept, rows, jnp.zeros_like(rows)))
  losses = of_labels(ops.softened_softmax(logits)) - of_labels(
    ops.softened_softmax(masked_logits)
  )
  losses = losses.astype(dtype)
  level = 1 - ops.as_number("batch_drop", batch_drop, dtype)
  limit = _quantile(
    ops.gather_batch(losses, axis_name),
    ops.gather_batch(keep, axis_name),
    level,
  )
  unmasked = (losses < limit) | ~keep
  mask = (kept | unmasked[:, None]).astype(dtype)
  lost = keep & jnp.isnan(losses) | jnp.any(jnp.isnan(rows), -1)
  mask = jnp.where(lost[:, None], jnp.nan, mask)
  return jax.lax.stop_gradient(mask)


@ops.validate
def _quantile(
  values: Float[Array, "*batch n"],
  keep: Bool[Array, "*batch n"],
  level: Float[Array, ""],
) -> Float[Array, "*batch"]:
  """Returns the quantile of the kept values, interpolated as in NumPy."""
  ordered = jnp.sort(jnp.where(keep, values, jnp.inf), -1)
  last = jnp.maximum(jnp.sum(keep, -1), 1) - 1
  place = level * last.astype(values.dtype)
  # Round a position that is whole except for rounding, as 2/3 of 3.
  whole = jnp.round(place)
  place = jnp.where(jnp.abs(place - whole) < 1e-5 * (1 + whole), whole, place)
  low = jnp.floor(place)
  fraction = place - low
  low = low.astype(last.dtype)
  high = jnp.minimum(low + 1, last)

  def at(index: Array) -> Array:
    return jnp.take_along_axis(ordered, index[..., None], -1)[..., 0]

  below, above = at(low), at(high)
  return jnp.where(fraction == 0, below, below + fraction * (above - below))
