"""Whether confidence is what accuracy turns out to be."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from kdjax.metrics._predictions import accuracy
from kdjax.ops import check_integer
from kdjax.ops import compute_dtype
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


class ReliabilityCurve(NamedTuple):
  """What a reliability diagram draws, one value a bin.

  Attributes:
    confidence: mean confidence in each bin, 0 where the bin is empty.
    accuracy: mean accuracy in each bin, 0 where the bin is empty.
    count: examples in each bin.

  Examples:
    >>> curve = reliability_curve(
    ...   jnp.array([[0.0, 9.0]]), jnp.array([1]), bins=2
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


@validate
def reliability_curve(
  logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  bins: int = 15,
  where: Bool[Array, "*batch"] | None = None,
  axis_name: str | None = None,
) -> ReliabilityCurve:
  r"""Reliability curve: confidence and accuracy in bins of confidence.

  Confidence is the largest probability. Bin m of M holds the examples whose
  confidence lies in ((m - 1) / M, m / M].

  Args:
    logits: `[*batch, classes]`.
    labels: `[*batch]`, in [0, classes).
    bins: how many bins of equal width [0, 1] is cut into.
    where: `[*batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    `ReliabilityCurve`, three arrays `[bins]`. NaN logits show as NaN in
    the first bin, so that a diverged model is not taken for a calibrated one.

  Raises:
    ValueError: if shapes differ or bins is not above 0.
    TypeError: if labels are not integers.

  Examples:
    >>> curve = reliability_curve(
    ...   jnp.array([[0.0, 0.0], [0.0, 9.0]]), jnp.array([1, 1]), bins=2
    ... )
    >>> curve.accuracy, curve.count
    (Array([0., 1.], dtype=float32), Array([1., 1.], dtype=float32))

  References:
    Guo et al., `On calibration of modern neural networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, section 2.
  """
  check_integer("bins", bins, 1)
  logits = logits.astype(compute_dtype(logits))
  confidence = jnp.max(jax.nn.softmax(logits), axis=-1).reshape(-1, 1)
  hits = accuracy(logits, labels).reshape(-1, 1)
  inner_edges = jnp.arange(1, bins, dtype=confidence.dtype)[None] / bins
  index = jnp.sum(confidence > inner_edges, axis=-1, keepdims=True)
  member = index == jnp.arange(bins)[None]
  if where is not None:
    member &= where.reshape(-1, 1)
  # Sums, not a product of matrices: accelerators would round its operands.
  sums = [
    jnp.sum(jnp.where(member, value, 0.0), axis=0, dtype=confidence.dtype)
    for value in (confidence, hits, 1.0)
  ]
  sums = sum_over_devices(sums, axis_name)
  total_confidence, total_hits, count = sums
  divisor = jnp.maximum(count, 1.0)
  return ReliabilityCurve(
    total_confidence / divisor, total_hits / divisor, count
  )


@validate
def expected_calibration_error(
  logits: Float[Array, "*batch classes"],
  labels: Integer[Array, "*batch"],
  *,
  bins: int = 15,
  where: Bool[Array, "*batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Expected calibration error (ECE), with bins of equal width.

  .. math::
    \sum_m \frac{n_m}{n} \lvert \mathrm{acc}_m - \mathrm{conf}_m \rvert

  over the bins of `reliability_curve`. A statistic of the whole sample:
  a mean over batches is larger than the value of their union.

  Args:
    logits: `[*batch, classes]`.
    labels: `[*batch]`, in [0, classes).
    bins: how many bins of equal width [0, 1] is cut into.
    where: `[*batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar in [0, 1]; 0 if no example counts.

  Raises:
    ValueError: if shapes differ or bins is not above 0.
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
    logits, labels, bins=bins, where=where, axis_name=axis_name
  )
  gap = jnp.abs(curve.accuracy - curve.confidence)
  return jnp.sum(curve.count * gap) / jnp.maximum(jnp.sum(curve.count), 1.0)
