"""Maximum mean discrepancy."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.adaptation._rows import masked_rows
from kdjax.adaptation._rows import total
from kdjax.ops import gather_batch
from kdjax.ops import pairwise_squared_distances
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate

_DEFAULT_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)


@validate
def mmd(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  estimator: str = "biased",
  bandwidth_factors: ArrayLike | Sequence[float] | None = None,
  bandwidths: ArrayLike | Sequence[float] | None = None,
  gammas: ArrayLike | Sequence[float] | None = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Maximum mean discrepancy (MMD), squared, with a sum of Gaussian kernels.

  .. math::
    \operatorname{MMD}^2 = \mathbb E\, k(s, s') + \mathbb E\, k(t, t')
      - 2\, \mathbb E\, k(s, t), \qquad
    k(x, y) = \sum_m \exp\Bigl(-\frac{\lVert x - y \rVert^2}
                                     {2 \sigma_m^2}\Bigr)

  Kernels are summed, as all published codes but pytorch-adapt do, so a weight
  that suits five kernels is five times too small for one. Choose their widths
  by one of three keywords:

  - `bandwidth_factors` (DAN, TLlib): sigma^2 is the factor times the mean of
    all squared distances of the pooled batch, the zero diagonal included. No
    gradient flows through it. The default is 2^-3, ..., 2^1, as in TLlib's DAN.
  - `bandwidths`: fixed sigma.
  - `gammas` (DomainBed): fixed exp(-gamma ||x - y||^2), gamma = 1/(2 sigma^2).

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    estimator: "biased" takes means over all pairs and is not negative
      (but for rounding);
      "unbiased" leaves out a sample's pair with itself and may be negative
      (a domain of one row has no such pair, and its term is left out);
      "linear" (DAN) looks at the pairs (i, i + 1 mod n) only: linear time, of
      equal expectation, noisier, signed, and it needs equal sizes.
    bandwidth_factors: a number or `[kernels]`.
    bandwidths: a number or `[kernels]`.
    gammas: a number or `[kernels]`.
    where_source: which source rows count.
    where_target: which target rows count. For "linear" both masks should keep
      equally many; the surplus is ignored.
    axis_name: the mapped axis that holds the rest of the batch. Rows are
      gathered, so pairs across devices count.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no row. TLlib adds
    2 / (n - 1), which changes no gradient and is left out here. Weight in
    DAN's code: 1 times the linear estimate.

  Raises:
    ValueError: if more than one kind of width is given, a static width is not
      above 0, the estimator is unknown, or "linear" gets unequal sizes.

  Examples:
    >>> points = jnp.array([[0.0], [1.0]])
    >>> print(f"{mmd(points, points + 1.0, gammas=1.0):.3f}")
    0.491

  References:
    Gretton et al., `A kernel two-sample test
    <https://jmlr.org/papers/v13/gretton12a.html>`_, 2012; Long et al.,
    `Learning transferable features with deep adaptation networks
    <https://arxiv.org/abs/1502.02791>`_, 2015.
  """
  check_choice("estimator", estimator, ("biased", "unbiased", "linear"))
  if estimator == "linear" and source.shape != target.shape:
    raise ValueError(
      f"mmd: target has {target.shape[0]} rows; the linear estimator expected "
      f"as many as source has, {source.shape[0]}."
    )
  dtype = jnp.promote_types(source.dtype, target.dtype)
  source, mask_source = masked_rows(source.astype(dtype), where_source)
  target, mask_target = masked_rows(target.astype(dtype), where_target)
  n_source, n_target = total(
    (jnp.sum(mask_source), jnp.sum(mask_target)), axis_name
  )
  present = jnp.minimum(n_source, n_target) > 0
  n_source, n_target = jnp.maximum(n_source, 1), jnp.maximum(n_target, 1)

  pooled = (
    jnp.concatenate([source, target]),
    jnp.concatenate([mask_source, mask_target]),
  )
  rates = _rates(bandwidth_factors, bandwidths, gammas, *pooled, axis_name)

  # Recomputed in the backward pass: one matrix is kept, not one a kernel.
  @jax.checkpoint
  def kernel(squared_distances: Array) -> Array:
    values = jnp.zeros_like(squared_distances)
    for rate in rates:
      values += jnp.exp(-rate * squared_distances)
    return values

  def pair_sum(
    a: Array, mask_a: Array, b: Array, mask_b: Array, *, distinct: bool = False
  ) -> Array:
    """Sums k(a, b) over this device's a and every device's b, then over a."""
    b, mask_b = gather_batch(b, axis_name), gather_batch(mask_b, axis_name)
    counted = mask_a[:, None] * mask_b[None]
    if distinct:
      index = jnp.arange(mask_a.size)
      if axis_name is not None:
        index += mask_a.size * jax.lax.axis_index(axis_name)
      counted *= index[:, None] != jnp.arange(mask_b.size)[None]
    values = counted * kernel(pairwise_squared_distances(a, b))
    return total(jnp.sum(values), axis_name)

  s, t = (source, mask_source), (target, mask_target)
  if estimator == "linear":
    value = _linear(kernel, s, t, jnp.minimum(n_source, n_target), axis_name)
  else:
    distinct = estimator == "unbiased"
    value = (
      pair_sum(*s, *s, distinct=distinct) / _pairs(n_source, distinct)
      + pair_sum(*t, *t, distinct=distinct) / _pairs(n_target, distinct)
      - 2 * pair_sum(*s, *t) / (n_source * n_target)
    )
  return jnp.where(present, value, 0.0)


@jax.default_matmul_precision("highest")
def _rates(
  bandwidth_factors: ArrayLike | Sequence[float] | None,
  bandwidths: ArrayLike | Sequence[float] | None,
  gammas: ArrayLike | Sequence[float] | None,
  rows: Float[Array, "pooled dims"],
  mask: Float[Array, " pooled"],
  axis_name: str | None,
) -> Float[Array, " kernels"]:
  """Returns each kernel's gamma in exp(-gamma ||x - y||^2)."""
  given = {
    "bandwidth_factors": bandwidth_factors,
    "bandwidths": bandwidths,
    "gammas": gammas,
  }
  given = {name: value for name, value in given.items() if value is not None}
  if len(given) > 1:
    raise ValueError(f"mmd: got {' and '.join(given)}; expected one of them.")
  name, value = next(
    iter(given.items()), ("bandwidth_factors", _DEFAULT_FACTORS)
  )
  check_positive(name, value)
  value = jnp.atleast_1d(jnp.asarray(value, rows.dtype))
  if value.ndim > 1 or value.size == 0:
    raise ValueError(
      f"mmd: {name} has shape {value.shape}; expected a number or [kernels]."
    )
  if name == "gammas":
    return value
  if name == "bandwidths":
    return 0.5 / jnp.square(value)
  # Over all ordered pairs, the mean squared distance is twice the mean squared
  # distance to the centre: no matrix is needed.
  rows = jax.lax.stop_gradient(rows)
  count = jnp.maximum(total(jnp.sum(mask), axis_name), 1)
  center = total(mask @ rows, axis_name) / count
  squares = jnp.sum(jnp.square(rows - center[None]), 1)
  mean = 2 * total(mask @ squares, axis_name) / count
  return 0.5 / (value * jnp.where(mean > 0, mean, 1.0))


def _pairs(count: Float[Array, ""], distinct: bool) -> Float[Array, ""]:
  """Returns the number of ordered pairs, at least 1."""
  return jnp.maximum(count * (count - 1), 1) if distinct else count * count


def _linear(
  kernel: Callable[[Array], Array],
  source: tuple[Array, Array],
  target: tuple[Array, Array],
  count: Float[Array, ""],
  axis_name: str | None,
) -> Float[Array, ""]:
  """Returns the linear-time estimate over the first `count` kept rows."""

  def kept_first(rows: Array, mask: Array) -> Array:
    rows, mask = gather_batch(rows, axis_name), gather_batch(mask, axis_name)
    return rows[jnp.argsort(-mask, stable=True)]

  s, t = kept_first(*source), kept_first(*target)
  index = jnp.arange(s.shape[0])
  following = jnp.where(index + 1 < count, index + 1, 0)
  values = (
    kernel(jnp.sum(jnp.square(s - s[following]), 1))
    + kernel(jnp.sum(jnp.square(t - t[following]), 1))
    - kernel(jnp.sum(jnp.square(s - t[following]), 1))
    - kernel(jnp.sum(jnp.square(s[following] - t), 1))
  )
  value = jnp.sum(jnp.where(index < count, values, 0.0)) / count
  # Equal on every device already; the mean makes its gradient the batch's.
  return value if axis_name is None else jax.lax.pmean(value, axis_name)
