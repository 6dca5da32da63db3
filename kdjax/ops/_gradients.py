"""Gradients other than those of the values."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

Tree = TypeVar("Tree")


def reverse_gradient(tree: Tree, scale: ArrayLike = 1.0) -> Tree:
  r"""Gradient reversal: the identity forward, minus `scale` backward.

  .. math:: R(x) = x, \qquad \frac{\partial R}{\partial x} = -\lambda I

  Works in forward and reverse mode, on any pytree of arrays, and with a traced
  scale. Put it on features to train an encoder against a discriminator, or on
  the discriminator's parameters to keep the sign of the loss.

  Args:
    tree: arrays of any shape; integer leaves pass through.
    scale: the factor lambda; may be traced. It receives no gradient.

  Returns:
    The same tree.

  Raises:
    TypeError: if a leaf is no array.

  Examples:
    >>> jax.grad(lambda x: reverse_gradient(x, 0.5) ** 2)(3.0)
    Array(-3., dtype=float32, weak_type=True)

  References:
    Ganin and Lempitsky, `Unsupervised domain adaptation by backpropagation
    <https://arxiv.org/abs/1409.7495>`_, 2015.
  """
  return jax.tree.map(lambda leaf: _reverse(jnp.asarray(leaf), scale), tree)


@jax.custom_jvp
def _reverse(x: jax.Array, scale: ArrayLike) -> jax.Array:
  del scale
  return x


@_reverse.defjvp
def _reverse_jvp(primals, tangents):
  x, scale = primals
  x_dot, _ = tangents
  if x_dot.dtype != jax.dtypes.float0:
    x_dot = -jnp.asarray(scale, x_dot.dtype) * x_dot
  return _reverse(x, scale), x_dot


@jax.custom_jvp
def with_gradient_of(value: Array, surrogate: Array) -> Array:
  """Returns the value, with the first derivatives of the surrogate.

  What a decomposition gives needs no derivative of the decomposition where
  its parts are stationary; that one is not finite for equal eigenvalues.

  Args:
    value: what is returned.
    surrogate: the same shape; its derivatives are used.

  Returns:
    `value`.
  """
  del surrogate
  return value


@with_gradient_of.defjvp
def _with_gradient_of_jvp(
  primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
  return primals[0], tangents[1]
