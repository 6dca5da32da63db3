"""Reliability curve and expected calibration error (ECE)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops
from kdjax.metrics._predictions import accuracy


@ops.exportable
class ReliabilityCurve(NamedTuple):
  """The values of a reliability diagram, one a bin.

  Attributes:
    confidence: mean confidence in each bin, 0 where the bin is empty.
    accuracy: mean accuracy in each bin, 0 where the bin is empty.
    count: the number of examples in each bin.

  Examples:
    >>> curve = reliability_curve(
    ...   jnp.array([[0.0, 9.0]]), jnp.array([1]), num_bins=2
    ... )
    >>> curve.count
    Array([0., 1.], dtype=float32)

  References:
    Guo et al., `On calibration of modern neural networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, figure 1.
  """

  confidence: Float[Array, " bins"]
  accuracy: Float[Array, " bins"]
  count: Float[Array, " bins"]


@ops.validate
def reliability_curve(
  logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  num_bins: int = 15,
  where: Bool[Array, "*batch"] | None = None,
  axis_name: str | None = None,
) -> ReliabilityCurve:
  r"""Reliability curve: confidence and accuracy in bins of confidence.

  Confidence is the largest probability. Bin m of M holds the examples whose
  confidence lies in ((m - 1) / M, m / M].

  Args:
    logits: `[*batch, classes]`.
    labels: `[*batch]`, in [0, classes).
    num_bins: the number of bins of equal width in [0, 1].
    where: `[*batch]`, True for the examples that count; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    `ReliabilityCurve`, three arrays `[bins]`. NaN logits give NaN in the first
    bin, so that a diverged model does not appear calibrated.

  Raises:
    ValueError: if shapes differ or num_bins is not above 0.
    TypeError: if labels are not integers.

  Examples:
    >>> curve = reliability_curve(
    ...   jnp.array([[0.0, 0.0], [0.0, 9.0]]), jnp.array([1, 1]), num_bins=2
    ... )
    >>> curve.accuracy, curve.count
    (Array([0., 1.], dtype=float32), Array([1., 1.], dtype=float32))

  References:
    Guo et al., `On calibration of modern neural networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 2.
  """
  ops.check_integer("num_bins", num_bins, 1)
  logits = logits.astype(ops.compute_dtype(logits))
  confidence = ops.largest(jax.nn.softmax(logits), -1).reshape(-1, 1)
  hits = accuracy(logits, labels).reshape(-1, 1)
  inner_edges = jnp.arange(1, num_bins, dtype=confidence.dtype)[None] / num_bins
  index = jnp.sum(confidence > inner_edges, axis=-1, keepdims=True)
  member = index == jnp.arange(num_bins)[None]
  if where is not None:
    member &= where.reshape(-1, 1)
  # Sums, not a matrix product: accelerators round the operands of a product.
  sums = [
    jnp.sum(jnp.where(member, value, 0.0), axis=0, dtype=confidence.dtype)
    for value in (confidence, hits, 1.0)
  ]
  sums = ops.sum_over_devices(sums, axis_name)
  total_confidence, total_hits, count = sums
  divisor = jnp.maximum(count, 1.0)
  return ReliabilityCurve(
    total_confidence / divisor, total_hits / divisor, count
  )


@ops.validate
def expected_calibration_error(
  logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  num_bins: int = 15,
  where: Bool[Array, "*batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Expected calibration error (ECE), with bins of equal width.

  .. math::
    \sum_m \frac{n_m}{n} \lvert \mathrm{acc}_m - \mathrm{conf}_m \rvert

  over the bins of `reliability_curve`. The error is a statistic of the whole
  sample: the mean over batches is larger.

  Args:
    logits: `[*batch, classes]`.
    labels: `[*batch]`, in [0, classes).
    num_bins: the number of bins of equal width in [0, 1].
    where: `[*batch]`, True for the examples that count; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar in [0, 1]; 0 if `where` is all False.

  Raises:
    ValueError: if shapes differ or num_bins is not above 0.
    TypeError: if labels are not integers.

  Examples:
    >>> logits = jnp.zeros((4, 2))
    >>> expected_calibration_error(logits, jnp.array([0, 1, 1, 1]))
    Array(0.25, dtype=float32)

  References:
    Guo et al., `On calibration of modern neural networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, equation 3.
  """
  curve = reliability_curve(
    logits, labels, num_bins=num_bins, where=where, axis_name=axis_name
  )
  gap = jnp.abs(curve.accuracy - curve.confidence)
  return jnp.sum(curve.count * gap) / jnp.maximum(jnp.sum(curve.count), 1.0)
