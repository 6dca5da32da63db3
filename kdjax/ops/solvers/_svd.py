"""Singular value decomposition with a finite derivative."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops.validation._validation import validate

_product = functools.partial(jnp.matmul, precision="highest")


@validate
def svd(
  matrix: Float[Array, "m n"],
) -> tuple[Float[Array, "m k"], Float[Array, " k"], Float[Array, "n k"]]:
  """Returns u `[m, k]`, k singular values in descending order, and v `[n, k]`.

  Singular vectors of equal singular values are not differentiable within their
  common subspace; that part of their derivative is 0. The derivatives of a
  singular value of 0 and of its vectors are 0 too. The derivative of a sum of
  singular values is then its smallest subgradient.

  Args:
    matrix: `[m, n]`.

  Returns:
    u, the singular values and v.
  """
  return _svd(matrix)


@jax.custom_jvp
def _svd(matrix: Array) -> tuple[Array, Array, Array]:
  left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
  return left, values, right.T


@_svd.defjvp
def _svd_jvp(
  primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
  (matrix,), (change,) = primals, tangents
  u, s, v = _svd(matrix)
  used = nonzero_singular_values(matrix, s)
  moved = _product(_product(u.T, change), v)
  gaps = (s[None] - s[:, None]) * (s[None] + s[:, None])
  apart = jnp.abs(gaps) > _tolerance(matrix) * jnp.square(s[:1])[None]
  rotation = jnp.where(apart, 1 / jnp.where(apart, gaps, 1.0), 0.0)
  inverse = jnp.where(used, 1 / jnp.where(used, s, 1.0), 0.0)[None]

  def outside(basis: Array, change: Array) -> Array:
    """Returns the part of a change outside of the span of the basis."""
    return (change - _product(basis, _product(basis.T, change))) * inverse

  left = _product(u, rotation * (moved * s[None] + s[:, None] * moved.T))
  right = _product(v, rotation * (s[:, None] * moved + moved.T * s[None]))
  return (u, s, v), (
    left + outside(u, _product(change, v)),
    jnp.where(used, jnp.diagonal(moved), 0.0),
    right + outside(v, _product(change.T, u)),
  )


def nonzero_singular_values(
  matrix: Float[Array, "m n"], values: Float[Array, " k"]
) -> Bool[Array, " k"]:
  """Returns which singular values exceed the rounding error of 0.

  Args:
    matrix: `[m, n]`.
    values: its singular values, in descending order.

  Returns:
    `[k]`.
  """
  # True for NaN, which must reach the caller.
  return ~(values <= _tolerance(matrix) * values[:1])


def _tolerance(matrix: Array) -> ArrayLike:
  return max(matrix.shape) * float(jnp.finfo(matrix.dtype).eps)
