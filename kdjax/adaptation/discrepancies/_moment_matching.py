"""Moment matching: CMD for two domains, M3SDA for several sources."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def cmd_loss(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  *,
  num_moments: int = 5,
  span: ArrayLike = 1.0,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Central moment discrepancy (CMD): distance between central moments.

  .. math::
    \ell = \frac{\lVert \mu_S - \mu_T \rVert_2}{|b - a|}
      + \sum_{k=2}^{K} \frac{\lVert c_k(S) - c_k(T) \rVert_2}{|b - a|^k},
    \qquad c_k(X) = \operatorname*{mean}_i (x_i - \mu_X)^k

  with elementwise powers.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    num_moments: K, the highest order; a static integer.
    span: |b - a|, the width of the interval of the feature values: 1 for the
      output of a sigmoid, 2 for tanh. May be traced.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; the moments
      are computed over the whole batch.

  Returns:
    A scalar; 0 with gradient 0 if a domain has no row. Published weight: 1
    with K = 5.

  Raises:
    ValueError: if the widths differ, `num_moments` is not positive or a static
      span is not above 0.
    TypeError: if `num_moments` is not an integer.

  The authors' code has no span, which equals a span of 1. For unbounded
  features the high moments then dominate the loss.

  Examples:
    >>> source = jnp.array([[0.0], [1.0]])
    >>> cmd_loss(source, source + 0.5)
    Array(0.5, dtype=float32)
    >>> cmd_loss(source, 2.0 * source, num_moments=2)
    Array(1.25, dtype=float32)

  References:
    Zellinger et al., `Central moment discrepancy
    <https://arxiv.org/abs/1702.08811>`_, 2017.
  """
  ops.check_integer("num_moments", num_moments, 1)
  ops.check_positive("span", span)
  dtype = jnp.promote_types(source.dtype, target.dtype)
  samples = (
    ops.masked_rows(source.astype(dtype), where_source),
    ops.masked_rows(target.astype(dtype), where_target),
  )
  width = ops.as_number("span", span, samples[0][0].dtype)

  def statistics(rows: Array, mask: Array) -> tuple[Array, Array]:
    count, sums = ops.sum_over_devices(
      (jnp.sum(mask), jnp.sum(rows, 0)), axis_name
    )
    mean = sums / jnp.maximum(count, 1)
    centered = mask[:, None] * (rows - mean[None]) / width
    powers = jnp.stack(
      [jnp.sum(centered**k, 0) for k in range(2, num_moments + 1)]
      or [jnp.zeros_like(mean)]
    )
    central = ops.sum_over_devices(powers, axis_name) / jnp.maximum(count, 1)
    return count, jnp.concatenate([mean[None] / width, central])

  (n_source, source), (n_target, target) = (statistics(*s) for s in samples)
  value = sum(_scaled_norm(gap) for gap in source - target)
  return jnp.where(jnp.minimum(n_source, n_target) > 0, value, 0.0)


@ops.validate
def m3sda_loss(
  sources: Sequence[ArrayLike],
  target: ArrayLike,
  *,
  form: str = "central",
  where_sources: Sequence[ArrayLike | None] | None = None,
  where_target: ArrayLike | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Moment matching for multi-source domain adaptation (M3SDA).

  .. math::
    \ell_\text{central} = \frac12 \sum_{k=1}^{2}
      \operatorname*{mean}_{\text{pairs } A, B}
      \lVert m_k(A) - m_k(B) \rVert_2

  over all pairs of domains, including the target, with the mean m_1 and the
  variance m_2 (over n - 1) of each dimension.

  .. math::
    \ell_\text{paper} = \sum_{k=1}^{2} \Bigl(
      \operatorname*{mean}_i \lVert \mathbb E S_i^k - \mathbb E T^k \rVert_2
      + \operatorname*{mean}_{i < j}
        \lVert \mathbb E S_i^k - \mathbb E S_j^k \rVert_2 \Bigr)

  Args:
    sources: one or more arrays `[rows, dims]`, one for each source domain.
      The numbers of rows may differ.
    target: `[rows, dims]`.
    form: "central" (Dassl) or "paper". The authors' digit code computes neither
      form: its first term subtracts centered examples of two domains, paired by
      their order in the batch.
    where_sources: a mask of the rows, or None, for each source.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of the batch; the moments
      are computed over the whole batch.

  Returns:
    A scalar; pairs with a domain without rows are left out. Published weight:
    0.5 (Dassl), together with two classifiers for each source, trained with
    `classifier_discrepancy` as in MCD.

  Raises:
    ValueError: if there is no source, widths or masks differ, or the form is
      unknown.
    TypeError: if an array is not floating-point.

  Examples:
    >>> source = jnp.array([[0.0], [2.0]])
    >>> m3sda_loss([source], source + 1.0)
    Array(0.5, dtype=float32)
    >>> m3sda_loss([source], source + 1.0, form="paper")
    Array(4., dtype=float32)

  References:
    Peng et al., `Moment matching for multi-source domain adaptation
    <https://arxiv.org/abs/1812.01754>`_, 2019.
  """
  ops.check_choice("form", form, ("central", "paper"))
  if not sources:
    raise ValueError(
      "m3sda_loss: sources is empty; expected one or more arrays."
    )
  if where_sources is None:
    where_sources = [None] * len(sources)
  if len(where_sources) != len(sources):
    raise ValueError(
      f"m3sda_loss: where_sources has {len(where_sources)} masks; expected "
      f"{len(sources)}, one for each source."
    )
  domains = []
  for i, (rows, where) in enumerate(
    [*zip(sources, where_sources, strict=True), (target, where_target)]
  ):
    name = "target" if i == len(sources) else f"sources[{i}]"
    try:
      domains.append(
        _first_two(
          jnp.asarray(rows),
          None if where is None else jnp.asarray(where),
          form=form,
          axis_name=axis_name,
        )
      )
    except (TypeError, ValueError) as error:
      text = str(error).split(": ", 1)[-1].replace("rows has", f"{name} has")
      raise type(error)(f"m3sda_loss: {text}") from None
    width, expected = domains[-1][1].shape[1], domains[0][1].shape[1]
    if width != expected:
      raise ValueError(
        f"m3sda_loss: {name} has {width} dims; expected {expected}, as in "
        "sources[0]."
      )
  dtype = jnp.result_type(*(moments for _, moments in domains))

  def mean_distance(pairs: list[tuple[int, int]]) -> Array:
    values, counts = [jnp.zeros((), dtype)], [jnp.zeros((), dtype)]
    for i, j in pairs:
      (n_a, a), (n_b, b) = domains[i], domains[j]
      both = ((n_a > 0) & (n_b > 0)).astype(dtype)
      values += [both * _scaled_norm(gap) for gap in a.astype(dtype) - b]
      counts.append(both)
    return sum(values) / jnp.maximum(sum(counts), 1)

  last = len(sources)
  of_sources = list(itertools.combinations(range(last), 2))
  with_target = [(i, last) for i in range(last)]
  if form == "central":
    return mean_distance(of_sources + with_target) / 2
  return mean_distance(with_target) + mean_distance(of_sources)


@ops.validate
def _first_two(
  rows: Float[Array, "rows dims"],
  where: Bool[Array, " rows"] | None,
  *,
  form: str,
  axis_name: str | None,
) -> tuple[Float[Array, ""], Float[Array, "2 dims"]]:
  """Returns the number of rows, and the moments of order 1 and 2."""
  rows, mask = ops.masked_rows(rows, where)
  count, sums = ops.sum_over_devices(
    (jnp.sum(mask), jnp.sum(rows, 0)), axis_name
  )
  mean = sums / jnp.maximum(count, 1)
  degrees = count
  if form == "central":
    rows = mask[:, None] * (rows - mean[None])
    degrees = count - 1
  squares = ops.sum_over_devices(jnp.sum(jnp.square(rows), 0), axis_name)
  return count, jnp.stack([mean, squares / jnp.maximum(degrees, 1)])


def _scaled_norm(x: Float[Array, " dims"]) -> Float[Array, ""]:
  """Euclidean norm, scaled: squares of high moments overflow float32."""
  top = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
  top = jnp.where(top > 0, top, 1.0)
  return top * ops.safe_norm(x / top)
