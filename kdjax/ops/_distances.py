"""Distances and norms that stay accurate and differentiable."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import validate


@validate
def pairwise_squared_distances(
  a: Float[Array, "n dims"], b: Float[Array, "m dims"]
) -> Float[Array, "n m"]:
  r"""Pairwise squared Euclidean distances.

  .. math::
    D_{ij} = \lVert a_i - b_j \rVert^2
           = \lVert a_i \rVert^2 + \lVert b_j \rVert^2 - 2 a_i \cdot b_j

  The product form needs no `[n, m, dims]` tensor. Both sets are centered on
  their common mean first, which keeps an offset from eating the digits. The
  absolute error is then that of the squares; where no digit is left of their
  difference, as of a point to itself, it is 0, with the gradient that it has.

  Args:
    a: `[n, dims]`.
    b: `[m, dims]`.

  Returns:
    `[n, m]`, nonnegative; float32 for half-precision inputs.

  Raises:
    ValueError: if the widths differ.

  Examples:
    >>> points = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    >>> pairwise_squared_distances(points, points)
    Array([[ 0., 25.],
           [25.,  0.]], dtype=float32)

  References:
    Higham, `Accuracy and stability of numerical algorithms
    <https://doi.org/10.1137/1.9780898718027>`_, 2002, chapter 1 (cancellation).
  """
  dtype = jnp.promote_types(compute_dtype(a), compute_dtype(b))
  a, b = a.astype(dtype), b.astype(dtype)
  # Sums of shares, not a multiple of sums: a compiler may subtract a product
  # without rounding it first, in one of the places where it recomputes a row.
  share_a, share_b = a / (2 * a.shape[0]), b / (2 * b.shape[0])
  center = jax.lax.stop_gradient(jnp.sum(share_a, 0) + jnp.sum(share_b, 0))
  a, b = a - center[None], b - center[None]
  # The default precision on GPU and TPU keeps 10 or 8 bits: too few here.
  products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  squares_a, squares_b = jnp.sum(a * a, 1), jnp.sum(b * b, 1)
  squares = squares_a[:, None] + squares_b[None]
  gaps = squares - 2 * products
  lost = gaps <= 16 * jnp.finfo(dtype).eps * squares  # NaN is not
  return gaps - jax.lax.stop_gradient(jnp.where(lost, gaps, 0.0))


@validate
def safe_norm(
  x: Float[Array, "..."],
  *,
  axis: int | tuple[int, ...] | None = -1,
  keepdims: bool = False,
) -> Float[Array, "..."]:
  r"""Euclidean norm whose gradient at the zero vector is 0, not NaN.

  .. math:: \lVert x \rVert_2 = \sqrt{\textstyle\sum_i x_i^2}

  Args:
    x: any shape.
    axis: the axis or axes of the vector; None for all.
    keepdims: whether the reduced axes stay with size 1.

  Returns:
    The norms; float32 for half-precision inputs.

  Raises:
    TypeError: if `x` is not floating-point.

  Examples:
    >>> safe_norm(jnp.array([3.0, 4.0]))
    Array(5., dtype=float32)
    >>> jax.grad(safe_norm)(jnp.zeros(2))
    Array([0., 0.], dtype=float32)

  References:
    `The double-where trick
    <https://docs.jax.dev/en/latest/faq.html#gradients-contain-nan-where-using-where>`_,
    JAX documentation.
  """
  x = x.astype(compute_dtype(x))
  squares = jnp.sum(jnp.square(x), axis, keepdims=keepdims)
  zero = squares == 0  # NaN is not: it must reach the caller
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def safe_abs(x: Array) -> Array:
  """Returns |x| with slope 0 at 0, where `jnp.abs` has 1.

  A loss of equal things is at its minimum and has nothing to move.

  Args:
    x: any shape.

  Returns:
    The same shape.
  """
  return x * jnp.sign(x)


def safe_sqrt(squares: Array) -> Array:
  """Returns square roots; 0 has gradient 0.

  Args:
    squares: not negative, any shape.

  Returns:
    The same shape.
  """
  zero = squares == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def unit_vectors(
  x: Float[Array, "... dims"], eps: float = 0.0
) -> Float[Array, "... dims"]:
  """Returns x / (norm + eps); the zero vector is 0, with gradient 0.

  Args:
    x: `[..., dims]`.
    eps: is added to the norm.

  Returns:
    `[..., dims]`.
  """
  norm = safe_norm(x, keepdims=True)
  dead = norm == 0  # NaN is not: it must reach the caller
  return x * jnp.where(dead, 0.0, 1 / jnp.where(dead, 1.0, norm + eps))


def normalize_as_torch(x: Array, axis: int = -1) -> Array:
  """Divides by the Euclidean norm; the zero vector stays, without gradient.

  A norm below 1e-12 counts as 1e-12, as in PyTorch's `normalize`, whose
  gradient at the zero vector, 1e12, is that of no dead channel.

  Args:
    x: any shape.
    axis: the axis of the vector.

  Returns:
    The same shape.
  """
  squares = jnp.sum(jnp.square(x), axis, keepdims=True)
  zero = squares == 0  # NaN is not: it must reach the caller
  norm = jnp.sqrt(jnp.where(zero, 1.0, squares))
  return jnp.where(zero, 0.0, x / jnp.maximum(norm, 1e-12))
