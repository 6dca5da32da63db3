"""Local maximum mean discrepancy (LMMD), class by class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from kdjax import ops
from kdjax.adaptation.discrepancies._kernels import (
  Kernel,
  Sample,
  Widths,
  choose_kernel,
  fit_kernel,
)


@ops.validate
def lmmd(
  source: Float[Array, "source dims"],
  target: Float[Array, "target dims"],
  source_labels: Integer[Array, " source"],
  target_probabilities: Float[Array, "target classes"],
  *,
  kernel: Kernel | None = None,
  bandwidth_factors: Widths = None,
  bandwidths: Widths = None,
  gammas: Widths = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Local maximum mean discrepancy (LMMD, DSAN): class by class.

  .. math::
    \ell = \frac1{|C|} \sum_{c \in C} \Bigl\lVert
      \sum_i \omega^S_{ic} \phi(s_i) - \sum_j \omega^T_{jc} \phi(t_j)
      \Bigr\rVert^2, \qquad
    \omega^S_{ic} = \frac{[y_i = c]}{\sum_i [y_i = c]}, \quad
    \omega^T_{jc} = \frac{p_{jc}}{\sum_j p_{jc}}

  in the kernel's feature space. C holds the classes that occur among the source
  labels and among the predicted classes of the target.

  Args:
    source: `[source, dims]`.
    target: `[target, dims]`; the number of rows may differ.
    source_labels: `[source]`.
    target_probabilities: `[target, classes]`, of the classifier. They get no
      gradient.
    kernel: as in `mmd`. The default is the authors',
      `Gaussian(bandwidth_rule="distinct_mean")`.
    bandwidth_factors: short for a Gaussian kernel with the authors' rule.
    bandwidths: short for `kernel=Gaussian(bandwidths=...)`.
    gammas: short for `kernel=Gaussian(gammas=...)`.
    where_source: mask of the source rows.
    where_target: mask of the target rows.
    chunk_size: as in `mmd`.
    axis_name: the mapped axis that holds the rest of the batch. Rows are
      gathered, so pairs of rows of different devices are included.

  Returns:
    A scalar, not negative (up to rounding); 0 with gradient 0 if the domains
    share no class. Published weight: 0.5 (DeepDA), times a factor that rises
    from 0 by 2 / (1 + exp(-progress)) - 1 and is not part of this value.

  Raises:
    ValueError: if shapes disagree, or as in `mmd`.
    TypeError: if the labels are not integers.

  Differs from the published code, which needs equally many rows in both
  domains and returns 0 where a kernel is NaN.

  Examples:
    >>> points = jnp.array([[0.0], [4.0]])
    >>> labels, sure = jnp.array([0, 1]), jnp.eye(2)
    >>> print(f"{lmmd(points, points, labels, sure, gammas=1.0):.3f}")
    0.000
    >>> print(f"{lmmd(points, points[::-1], labels, sure, gammas=1.0):.3f}")
    2.000

  References:
    Zhu et al., `Deep subdomain adaptation network for image classification
    <https://arxiv.org/abs/2106.09388>`_, 2020.
  """
  classes = target_probabilities.shape[1]
  dtype = jnp.promote_types(source.dtype, target.dtype)
  of_source = Sample(*ops.masked_rows(source.astype(dtype), where_source))
  of_target = Sample(*ops.masked_rows(target.astype(dtype), where_target))
  kernel = choose_kernel(
    kernel,
    bandwidth_factors=bandwidth_factors,
    bandwidths=bandwidths,
    gammas=gammas,
    bandwidth_rule="distinct_mean",
  )
  fitted = fit_kernel(kernel, of_source, of_target, axis_name, chunk_size)
  dtype = of_source.rows.dtype

  def one_hot(labels: Array, mask: Array) -> Array:
    return ops.one_hot_labels(labels, classes, dtype, mask, "source_labels")

  probabilities, _ = ops.masked_rows(
    jax.lax.stop_gradient(target_probabilities.astype(dtype)), where_target
  )
  labeled = one_hot(source_labels, of_source.mask)
  predicted = one_hot(jnp.argmax(probabilities, 1), of_target.mask)
  source_mass, target_mass, predictions = ops.sum_over_devices(
    tuple(jnp.sum(x, 0) for x in (labeled, probabilities, predicted)),
    axis_name,
  )
  shared = (source_mass > 0) & (predictions > 0) & (target_mass > 0)
  # NaN of a label out of range must reach the caller.
  shared |= jnp.isnan(source_mass)
  # The weight of a pair is a product of two of these weights.
  scale = 1 / jnp.sqrt(jnp.maximum(jnp.sum(shared, dtype=dtype), 1))

  def weights(members: Array, mass: Array) -> Array:
    share = jnp.where(shared, scale / jnp.where(shared, mass, 1.0), 0.0)
    return members * share[None]

  def pair_sum(
    a: Array, weights_a: Array, b: Array, weights_b: Array
  ) -> Float[Array, ""]:
    b, weights_b = (
      ops.gather_batch(b, axis_name),
      ops.gather_batch(weights_b, axis_name),
    )

    def row_sums(part: tuple[Array, Array]) -> Array:
      rows, weights = part
      pairs = jnp.matmul(weights, weights_b.T, precision="highest")
      return jnp.sum(pairs * fitted.between(rows, b), 1)

    sums = ops.in_chunks(row_sums, (a, weights_a), chunk_size)
    return ops.sum_over_devices(jnp.sum(sums), axis_name)

  s = of_source.rows, weights(labeled, source_mass)
  t = of_target.rows, weights(probabilities, target_mass)
  return pair_sum(*s, *s) + pair_sum(*t, *t) - 2 * pair_sum(*s, *t)
