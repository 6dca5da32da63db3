"""Batch spectral shrinkage (BSS)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def bss_loss(
  features: Float[Array, "batch dims"],
  *,
  num_singular_values: int | Array = 1,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch spectral shrinkage (BSS): penalizes the smallest singular values.

  .. math:: \ell = \sum_{i=1}^{k} \sigma_{-i}^2(F)

  with the k smallest of the min(batch, dims) singular values of the feature
  matrix F. According to the paper, these directions transfer badly.

  Args:
    features: `[batch, dims]`.
    num_singular_values: k, the number of penalized singular values. May be
      traced.
    where: `[batch]`, True for the examples to use. Masked examples are left out
      of the matrix, not set to 0 rows.
    axis_name: the mapped axis that holds the rest of the batch, whose rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if all examples are masked. Published weight:
    0.001, with k = 1 and batches of 48.

  Raises:
    ValueError: if a static k is below 1 or above min(batch, dims).
    TypeError: if the features are not floating-point or k is not an integer.

  The singular vectors are eigenvectors of the smaller Gram matrix and get no
  gradient. First derivatives stay exact, and finite for equal singular values,
  where the derivative of an SVD is infinite. Second derivatives are not exact.

  Examples:
    >>> features = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    >>> print(f"{bss_loss(features, num_singular_values=2):.4f}")
    5.0000

  References:
    Chen et al., `Catastrophic forgetting meets negative transfer: batch
    spectral shrinkage for safe transfer learning
    <https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html>`_,
    2019.
  """
  rows, mask = ops.gathered_rows(features, where, axis_name)
  size = min(rows.shape)
  if not isinstance(num_singular_values, jax.Array):
    ops.check_integer("bss_loss: num_singular_values", num_singular_values, 1)
    if num_singular_values > size:
      raise ValueError(
        f"bss_loss: num_singular_values is {num_singular_values}; expected at "
        f"most min(batch, dims) = {size}."
      )
  x = rows.T if rows.shape[0] < rows.shape[1] else rows
  fixed = jax.lax.stop_gradient(x)
  gram = jnp.matmul(fixed.T, fixed, precision="highest")
  _, vectors = jnp.linalg.eigh(gram)
  # Eigenvalues ascend. Each masked row adds a zero eigenvalue: skip those.
  count = jnp.minimum(jnp.sum(mask), rows.shape[1])
  rank = jnp.arange(size) - (size - count)
  chosen = (rank >= 0) & (rank < num_singular_values)
  images = jnp.matmul(x, vectors, precision="highest")
  values = jnp.where(chosen, jnp.sum(jnp.square(images), 0), 0.0)
  return ops.mean_over_devices(jnp.sum(values), axis_name)
