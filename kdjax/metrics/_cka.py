"""Centered kernel alignment (CKA)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def cka(
  features_a: Float[Array, "batch ..."],
  features_b: Float[Array, "batch ..."],
  *,
  debiased: bool = False,
  pool: bool = False,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Linear centered kernel alignment (CKA) of two representations.

  .. math::
    \operatorname{CKA} = \frac{\lVert A^\top B \rVert_F^2}
      {\lVert A^\top A \rVert_F \lVert B^\top B \rVert_F}
      = \frac{\operatorname{HSIC}(A A^\top, B B^\top)}
      {\sqrt{\operatorname{HSIC}(A A^\top, A A^\top)
             \operatorname{HSIC}(B B^\top, B B^\top)}}

  with centered columns of A and B. The value does not change when either
  representation is rotated, scaled or shifted.

  Args:
    features_a: `[batch, ...]`, embeddings or feature maps, which are flattened.
    features_b: `[batch, ...]`; all axes but the batch may differ.
    debiased: True for the unbiased estimate of HSIC. With fewer examples than
      features, the biased estimate is near 1 for any two networks.
    pool: True to average over all axes between batch and channels first.
    where: `[batch]`, True for the examples in the sample; None takes all.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar in [0, 1]; the debiased value is at most 1 and may be negative. The
    value is 0 if all examples have the same representation, or for one example
    (for three or fewer if debiased).

  Raises:
    ValueError: if the batch sizes differ.
    TypeError: if the representations are not floating-point.

  CKA is a statistic of the whole sample, not a mean over batches; a mean of
  debiased HSICs over batches would be valid too (Nguyen et al., 2021).

  Examples:
    >>> a = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> print(f"{cka(a, 3.0 * a[:, ::-1] + 1.0):.4f}")
    1.0000

  References:
    Kornblith et al., `Similarity of neural network representations revisited
    <https://arxiv.org/abs/1905.00414>`_, 2019; Song et al., `Feature selection
    via dependence maximization
    <https://jmlr.org/papers/v13/song12a.html>`_, 2012, equation 5.
  """
  mask = jnp.ones(features_a.shape[:1], bool) if where is None else where
  mask = ops.gather_batch(mask, axis_name)
  count = jnp.sum(mask, dtype=jnp.promote_types(features_a.dtype, jnp.float32))

  def gram(x: Array) -> tuple[Float[Array, "whole whole"], float]:
    """Returns inner products, and the rounding error of their HSIC."""
    x = x.astype(ops.compute_dtype(x))
    if pool and x.ndim > 2:
      x = jnp.mean(x, tuple(range(1, x.ndim - 1)))
    x = ops.gather_batch(x.reshape(x.shape[0], -1), axis_name)
    x = jnp.where(mask[:, None], x, 0.0)
    # Dividing by the largest entry keeps the squares in range.
    x = x / ops.nonzero_divisor(jnp.max(jnp.abs(x)))
    x = x - jnp.sum(x, 0, keepdims=True) / jnp.maximum(count, 1)
    x = jnp.where(mask[:, None], x, 0.0)
    noise = x.size * (8 * float(jnp.finfo(x.dtype).eps)) ** 2
    gram = jnp.matmul(x, x.T, precision="highest")
    if debiased:
      gram = jnp.where(jnp.eye(mask.size, dtype=bool), 0.0, gram)
    return gram, noise**2

  def independence(k: Array, m: Array) -> Float[Array, ""]:
    if not debiased:
      return jnp.sum(k * m)
    products = jnp.sum(k * m) + jnp.sum(k) * jnp.sum(m) / ops.nonzero_divisor(
      (count - 1) * (count - 2)
    )
    rows = jnp.sum(jnp.sum(k, 0) * jnp.sum(m, 0))
    return jnp.where(
      count > 3, products - 2 * rows / ops.nonzero_divisor(count - 2), 0.0
    )

  (gram_a, noise_a), (gram_b, noise_b) = gram(features_a), gram(features_b)
  cross = independence(gram_a, gram_b)
  own = independence(gram_a, gram_a), independence(gram_b, gram_b)
  # False for NaN, which must reach the caller.
  constant = (own[0] <= noise_a) | (own[1] <= noise_b) | (count <= 1)
  scale = jnp.sqrt(jnp.where(constant, 1.0, own[0])) * jnp.sqrt(
    jnp.where(constant, 1.0, own[1])
  )
  value = jnp.where(constant, 0.0, cross / scale)
  # The value is equal on every device already; the mean tells JAX so.
  return ops.mean_over_devices(value, axis_name)
