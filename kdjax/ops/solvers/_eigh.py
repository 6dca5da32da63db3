"""Eigenvectors and square roots of symmetric matrices, with derivatives."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.ops.validation._validation import validate

_product = functools.partial(jnp.matmul, precision="highest")


@validate
def descending_eigh(
  matrix: Float[Array, "n n"],
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
  """Returns eigenvalues, the largest first, and eigenvectors in columns.

  The largest entry of each eigenvector is positive. Eigenvectors of equal
  eigenvalues are not differentiable within their common subspace; that part of
  the derivative is 0.

  Args:
    matrix: symmetric, `[n, n]`.

  Returns:
    Eigenvalues `[n]` and eigenvectors `[n, n]`.
  """
  return _descending_eigh(matrix)


@jax.custom_jvp
def _descending_eigh(matrix: Array) -> tuple[Array, Array]:
  values, vectors = jnp.linalg.eigh(_symmetric(matrix))
  return values[::-1], fix_signs(vectors[:, ::-1])


@_descending_eigh.defjvp
def _descending_eigh_jvp(
  primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  (matrix,), (change,) = primals, tangents
  values, vectors = _descending_eigh(matrix)
  moved = _product(vectors.T, _product(_symmetric(change), vectors))
  gaps = values[None] - values[:, None]
  apart = jnp.abs(gaps) > _rounding_error(values)
  rotation = jnp.where(apart, 1 / jnp.where(apart, gaps, 1.0), 0.0)
  return (values, vectors), (
    jnp.diagonal(moved),
    _product(vectors, rotation * moved),
  )


@validate
def matrix_square_root(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
  """Returns the square root of a positive semidefinite matrix.

  Its derivative is exact for equal eigenvalues too. On the null space, where it
  does not exist, the derivative is 0.

  Args:
    matrix: positive semidefinite, `[n, n]`.

  Returns:
    `[n, n]`.
  """
  return _square_root(matrix)


@jax.custom_jvp
def _square_root(matrix: Array) -> Array:
  values, vectors = _descending_eigh(matrix)
  return _product(vectors * _roots(values)[None], vectors.T)


@_square_root.defjvp
def _square_root_jvp(
  primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
  (matrix,), (change,) = primals, tangents
  values, vectors = _descending_eigh(matrix)
  roots = _roots(values)
  moved = _product(vectors.T, _product(_symmetric(change), vectors))
  sums = roots[:, None] + roots[None]
  positive = sums > 0
  moved = jnp.where(positive, moved / jnp.where(positive, sums, 1.0), 0.0)
  root = _product(vectors * roots[None], vectors.T)
  return root, _product(vectors, _product(moved, vectors.T))


@validate
def positive_definite_inverse(
  matrix: Float[Array, "n n"],
) -> Float[Array, "n n"]:
  """Returns the inverse of a positive definite matrix.

  Args:
    matrix: positive definite, `[n, n]`.

  Returns:
    `[n, n]`.
  """
  identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
  with jax.default_matmul_precision("highest"):
    factor = jax.scipy.linalg.cho_factor(_symmetric(matrix))
    return jax.scipy.linalg.cho_solve(factor, identity)


def fix_signs(columns: Float[Array, "n k"]) -> Float[Array, "n k"]:
  """Returns columns with signs that make their largest entries positive.

  Args:
    columns: `[n, k]`.

  Returns:
    `[n, k]`.
  """
  peaks = jnp.argmax(jnp.abs(columns), 0)
  signs = jnp.sign(jnp.take_along_axis(columns, peaks[None], 0))
  return columns * jnp.where(signs == 0, 1.0, jax.lax.stop_gradient(signs))


def _symmetric(matrix: Array) -> Array:
  return (matrix + matrix.T) / 2


def _rounding_error(values: Array) -> Array:
  """Returns the rounding error of eigenvalues."""
  eps = jnp.finfo(values.dtype).eps
  return values.size * eps * jnp.max(jnp.abs(values), initial=0.0)


def _roots(values: Array) -> Array:
  zero = values <= _rounding_error(
    values
  )  # False for NaN, which must reach the caller
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, values)))
