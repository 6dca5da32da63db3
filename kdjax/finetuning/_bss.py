"""Batch spectral shrinkage (BSS)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import check_integer
from kdjax.ops import gathered_rows
from kdjax.ops import mean_over_devices
from kdjax.ops import validate


@validate
def bss_loss(
  features: Float[Array, "batch dims"],
  *,
  k: int | Array = 1,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch spectral shrinkage (BSS): the smallest singular values go to 0.

  .. math:: \ell = \sum_{i=1}^{k} \sigma_{-i}^2(F)

  with the k smallest of the min(batch, dims) singular values of the batch's
  features: what transfers badly lies in those directions.

  Args:
    features: `[batch, dims]`.
    k: how many singular values are shrunk. May be traced.
    where: `[batch]`, which examples count; the others are no zero rows, they
      are not there.
    axis_name: the mapped axis that holds the rest of the batch, whose rows are
      gathered.

  Returns:
    A scalar; 0 with gradient 0 if nothing counts. Published weight: 0.001,
    with k = 1 and batches of 48.

  Raises:
    ValueError: if a static k is below 1 or above min(batch, dims).
    TypeError: if the features are not floating-point, or k is no integer.

  The singular vectors come from the smaller Gram matrix and get no gradient,
  which changes no first derivative; equal singular values, where that of an
  SVD is infinite, are no exception. Second derivatives are not those of BSS.

  Examples:
    >>> print(f"{bss_loss(jnp.diag(jnp.array([3.0, 2.0, 1.0])), k=2):.4f}")
    5.0000

  References:
    Chen et al., `Catastrophic forgetting meets negative transfer: batch
    spectral shrinkage for safe transfer learning
    <https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html>`_,
    2019.
  """
  rows, mask = gathered_rows(features, where, axis_name)
  size = min(rows.shape)
  if not isinstance(k, jax.Array):
    check_integer("bss_loss: k", k, 1)
    if k > size:
      raise ValueError(
        f"bss_loss: k is {k}; expected at most min(batch, dims) = {size}."
      )
  x = rows.T if rows.shape[0] < rows.shape[1] else rows
  fixed = jax.lax.stop_gradient(x)
  gram = jnp.matmul(fixed.T, fixed, precision="highest")
  _, vectors = jnp.linalg.eigh(gram)
  # In ascending order; masked rows have brought zeros, which come first.
  count = jnp.minimum(jnp.sum(mask), rows.shape[1])
  place = jnp.arange(size) - (size - count)
  chosen = (place >= 0) & (place < k)
  images = jnp.matmul(x, vectors, precision="highest")
  values = jnp.where(chosen, jnp.sum(jnp.square(images), 0), 0.0)
  return mean_over_devices(jnp.sum(values), axis_name)
