"""RSC: mutes the features that the classifier leans on most."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import as_number
from kdjax.ops import check_labels
from kdjax.ops import check_range
from kdjax.ops import compute_dtype
from kdjax.ops import gather_batch
from kdjax.ops import softened_softmax
from kdjax.ops import validate


@validate
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
  r"""Representation self-challenging (RSC): a mask that mutes the top features.

  .. math::
    g_i = \nabla_f\, z_{y_i}(f_i), \qquad
    m^F_{ij} = [g_{ij} < Q_{1 - p}(g_i)]

  .. math::
    \delta_i = q_{y_i}(f_i) - q_{y_i}(m^F_i f_i), \qquad
    m_{ij} = m^F_{ij} \lor [\delta_i < Q_{1 - b}(\delta)]

  with quantiles Q interpolated linearly: the share p of an example's features
  whose gradient is largest is muted, in the share b of examples whose
  probability that costs most. The loss is the cross-entropy of
  `classify(features * mask)`.

  Args:
    classify: the head, from features `[batch, dims]` to logits
      `[batch, classes]`, row by row.
    features: `[batch, dims]`, pooled.
    labels: `[batch]`, integers.
    feature_drop: p, in [0, 1]. May be traced.
    batch_drop: b, in [0, 1]. May be traced.
    where: `[batch]`, which examples count; the others' mask is 1.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `[batch, dims]`, 0 or 1, without gradient. Comparisons are strict, as
    published: a drop of 0 still mutes the largest, and an example whose
    gradients are all equal is muted whole.

  Raises:
    ValueError: if a static share is outside [0, 1] or shapes do not fit.

  As DomainBed and DeepDG, on pooled features by the signed gradient; the
  authors' network also mutes positions of the last feature map, in turns.

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
  check_range("feature_drop", feature_drop, 0.0, 1.0)
  check_range("batch_drop", batch_drop, 0.0, 1.0)
  dtype = compute_dtype(features)
  keep = jnp.ones(labels.shape, bool) if where is None else where
  rows = jnp.where(keep[:, None], features, jnp.zeros_like(features))
  rows = jax.lax.stop_gradient(rows)

  def own(values: Array) -> Float[Array, " batch"]:
    check_labels(labels, values.shape[-1])
    return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]

  def label_logits(rows: Array) -> tuple[Array, Array]:
    logits = classify(rows)
    return jnp.sum(own(logits).astype(dtype)), logits

  gradients, logits = jax.grad(label_logits, has_aux=True)(rows)
  gradients = gradients.astype(dtype)
  share = 1 - as_number("feature_drop", feature_drop, dtype)
  everything = jnp.ones(gradients.shape, bool)
  unmuted = gradients < _quantile(gradients, everything, share)[:, None]

  muted_logits = classify(jnp.where(unmuted, rows, jnp.zeros_like(rows)))
  changes = own(softened_softmax(logits)) - own(softened_softmax(muted_logits))
  changes = changes.astype(dtype)
  share = 1 - as_number("batch_drop", batch_drop, dtype)
  limit = _quantile(
    gather_batch(changes, axis_name), gather_batch(keep, axis_name), share
  )
  spared = (changes < limit) | ~keep
  mask = (unmuted | spared[:, None]).astype(dtype)
  return jax.lax.stop_gradient(mask)


def _quantile(
  values: Float[Array, "*batch n"],
  keep: Bool[Array, "*batch n"],
  share: Float[Array, ""],
) -> Float[Array, "*batch"]:
  """Returns the quantile of what is kept, interpolated as NumPy does."""
  ordered = jnp.sort(jnp.where(keep, values, jnp.inf), -1)
  last = jnp.maximum(jnp.sum(keep, -1), 1) - 1
  place = share * last.astype(values.dtype)
  # 2/3 of 3 is 2, but not in floating point.
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
