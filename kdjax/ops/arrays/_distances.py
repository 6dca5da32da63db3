"""Accurate and differentiable distances and norms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.ops.probabilities._softmax import compute_dtype
from kdjax.ops.validation._validation import validate


@validate
def pairwise_squared_distances(
  a: Float[Array, "n dims"], b: Float[Array, "m dims"]
) -> Float[Array, "n m"]:
  r"""Pairwise squared Euclidean distances: of all rows of two samples.

  .. math::
    D_{ij} = \lVert a_i - b_j \rVert^2
           = \lVert a_i \rVert^2 + \lVert b_j \rVert^2 - 2 a_i \cdot b_j

  The product form needs no `[n, m, dims]` array. Both samples are centered on
  their common mean first, because a large offset would lose digits. The
  absolute error is then that of the squared norms. A distance below this error,
  as of a point to itself, is set to 0 and keeps its gradient.

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
  """
  dtype = jnp.promote_types(compute_dtype(a), compute_dtype(b))
  a, b = a.astype(dtype), b.astype(dtype)
  # Divide before the sums: XLA may fuse a multiplication after them into the
  # subtraction, at some of its uses only, and so center equal rows differently.
  scaled_a, scaled_b = a / (2 * a.shape[0]), b / (2 * b.shape[0])
  center = jax.lax.stop_gradient(jnp.sum(scaled_a, 0) + jnp.sum(scaled_b, 0))
  a, b = a - center[None], b - center[None]
  # The default precisions of GPU and TPU, 10 and 8 bits, are too low here.
  products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  squares_a, squares_b = jnp.sum(a * a, 1), jnp.sum(b * b, 1)
  squares = squares_a[:, None] + squares_b[None]
  gaps = squares - 2 * products
  # False for NaN, which must reach the caller.
  lost = gaps <= 16 * jnp.finfo(dtype).eps * squares
  return gaps - jax.lax.stop_gradient(jnp.where(lost, gaps, 0.0))


@validate
def safe_norm(
  x: Float[Array, "..."],
  *,
  axis: int | tuple[int, ...] | None = -1,
  keepdims: bool = False,
) -> Float[Array, "..."]:
  r"""Euclidean norm: with gradient 0, not NaN, at the zero vector.

  .. math:: \lVert x \rVert_2 = \sqrt{\textstyle\sum_i x_i^2}

  Args:
    x: any shape.
    axis: the axis or axes of the vectors; None for all axes.
    keepdims: whether to keep the reduced axes with size 1.

  Returns:
    The norms; float32 for half-precision inputs.

  Raises:
    TypeError: if `x` is not floating-point.

  Examples:
    >>> safe_norm(jnp.array([3.0, 4.0]))
    Array(5., dtype=float32)
    >>> jax.grad(safe_norm)(jnp.zeros(2))
    Array([0., 0.], dtype=float32)
  """
  x = x.astype(compute_dtype(x))
  axes = axis if isinstance(axis, tuple) else (axis,)
  known = range(-x.ndim, x.ndim)
  if axis is not None and not all(
    isinstance(i, int) and i in known for i in axes
  ):
    raise ValueError(
      f"safe_norm: axis is {axis!r}; expected axes of x, whose shape is "
      f"{x.shape}."
    )
  squares = jnp.sum(jnp.square(x), axis, keepdims=keepdims)
  zero = squares == 0  # False for NaN, which must reach the caller
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def safe_abs(x: Array) -> Array:
  """Returns |x| with derivative 0 at 0, where `jnp.abs` has derivative 1.

  The gradient of a distance between equal arrays, its minimum, is then 0.

  Args:
    x: any shape.

  Returns:
    The same shape.
  """
  return x * jnp.sign(x)


def safe_sqrt(squares: Array) -> Array:
  """Returns square roots, with gradient 0 at 0.

  Args:
    squares: at least 0, any shape.

  Returns:
    The same shape.
  """
  zero = squares == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def unit_vectors(
  x: Float[Array, "... dims"], epsilon: float = 0.0
) -> Float[Array, "... dims"]:
  """Returns x / (norm + epsilon); 0, with gradient 0, for the zero vector.

  Args:
    x: `[..., dims]`.
    epsilon: added to the norm.

  Returns:
    `[..., dims]`.
  """
  norm = safe_norm(x, keepdims=True)
  zero = norm == 0  # False for NaN, which must reach the caller
  return x * jnp.where(zero, 0.0, 1 / jnp.where(zero, 1.0, norm + epsilon))


def normalize_as_torch(x: Array, axis: int = -1) -> Array:
  """Returns x / max(norm, 1e-12), as PyTorch's `normalize` does.

  The zero vector stays 0 with gradient 0. PyTorch's gradient there is 1e12, far
  too large for features of a dead channel.

  Args:
    x: any shape.
    axis: the axis of the vectors.

  Returns:
    The same shape.
  """
  squares = jnp.sum(jnp.square(x), axis, keepdims=True)
  zero = squares == 0  # False for NaN, which must reach the caller
  norm = jnp.sqrt(jnp.where(zero, 1.0, squares))
  return jnp.where(zero, 0.0, x / jnp.maximum(norm, 1e-12))
