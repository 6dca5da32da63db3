"""A singular value decomposition whose derivative is finite."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_product = functools.partial(jnp.matmul, precision="highest")


@jax.custom_jvp
def svd(matrix: Float[Array, "m n"]) -> tuple[Array, Array, Array]:
  """Returns u `[m, k]`, the k values in descending order, and v `[n, k]`.

  Vectors of equal values have no derivative in their common plane, and vectors
  of the value 0 none at all: there, and only there, they get none. A value of
  0 gets none either, which makes that of a sum of values its smallest
  subgradient.

  Args:
    matrix: `[m, n]`.

  Returns:
    u, the values and v.
  """
  left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
  return left, values, right.T


@svd.defjvp
def _svd_jvp(
  primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
  (matrix,), (change,) = primals, tangents
  u, s, v = svd(matrix)
  used = nonzero_singular_values(matrix, s)
  moved = _product(_product(u.T, change), v)
  gaps = (s[None] - s[:, None]) * (s[None] + s[:, None])
  apart = jnp.abs(gaps) > _tolerance(matrix) * jnp.square(s[:1])[None]
  turn = jnp.where(apart, 1 / jnp.where(apart, gaps, 1.0), 0.0)
  inverse = jnp.where(used, 1 / jnp.where(used, s, 1.0), 0.0)[None]

  def outside(basis: Array, change: Array) -> Array:
    """What leaves the span of the vectors."""
    return (change - _product(basis, _product(basis.T, change))) * inverse

  left = _product(u, turn * (moved * s[None] + s[:, None] * moved.T))
  right = _product(v, turn * (s[:, None] * moved + moved.T * s[None]))
  return (u, s, v), (
    left + outside(u, _product(change, v)),
    jnp.where(used, jnp.diagonal(moved), 0.0),
    right + outside(v, _product(change.T, u)),
  )


def nonzero_singular_values(
  matrix: Float[Array, "m n"], values: Float[Array, " k"]
) -> Bool[Array, " k"]:
  """Returns which singular values are no rounding errors of 0.

  Args:
    matrix: `[m, n]`.
    values: its singular values, in descending order.

  Returns:
    `[k]`.
  """
  # NaN is no 0: it must reach the caller.
  return ~(values <= _tolerance(matrix) * values[:1])


def _tolerance(matrix: Array) -> float:
  return float(max(matrix.shape) * jnp.finfo(matrix.dtype).eps)
