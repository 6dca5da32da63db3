"""The Frechet distance of two sets of features."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def frechet_distance(
  features_a: Float[Array, "source dims"],
  features_b: Float[Array, "target dims"],
) -> Float[Array, ""]:
  r"""Frechet distance: of the normal distributions that fit two sets best.

  .. math::
    d^2 = |m_a - m_b|^2 + \operatorname{tr}\bigl(C_a + C_b - 2 (C_a^{1/2} C_b
    C_a^{1/2})^{1/2}\bigr)

  With features of Inception it is the FID. With other features it orders
  models of one study, and its values mean nothing beside others.

  Args:
    features_a: `[source, dims]`, such as a classifier's embedding of samples.
    features_b: `[target, dims]`, of real data.

  Returns:
    The square of the distance, 0 or more. It has a bias that falls with the
    number of rows: compare sets of equal sizes.

  Raises:
    ValueError: if shapes do not fit, or a set has fewer than two rows.
    TypeError: if an array is not floating-point.

  Examples:
    >>> rows = jnp.array([[0.0], [2.0]])
    >>> print(frechet_distance(rows, rows + 3))
    9.0

  References:
    Heusel et al., `GANs trained by a two time-scale update rule converge to a
    local Nash equilibrium <https://arxiv.org/abs/1706.08500>`_, 2017.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(features_a), ops.compute_dtype(features_b)
  )
  a, b = features_a.astype(dtype), features_b.astype(dtype)
  for name, x in (("features_a", a), ("features_b", b)):
    rows = x.shape[0]
    if not ops.is_symbolic(rows) and rows < 2:
      raise ValueError(
        f"frechet_distance: {name} has {rows} rows; expected two or more."
      )
  gap = jnp.mean(a, 0) - jnp.mean(b, 0)
  # The trace of the root is the sum of the singular values of A B^T for the
  # centered rows A and B, scaled, and so of their triangles R: no root of a
  # matrix is taken.
  left, right = (
    (x - jnp.mean(x, 0, keepdims=True))
    / jnp.sqrt(jnp.asarray(x.shape[0] - 1, dtype))
    for x in (a, b)
  )
  triangles = [jnp.linalg.qr(x, mode="r") for x in (left, right)]
  shared = jnp.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False)
  spread = jnp.sum(jnp.square(left)) + jnp.sum(jnp.square(right))
  return ops.at_least(
    jnp.sum(jnp.square(gap)) + spread - 2 * jnp.sum(shared), 0
  )
