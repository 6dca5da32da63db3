"""Replaced gradients: reversal, and the gradient of another function."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

Tree = TypeVar("Tree")


def reverse_gradient(tree: Tree, scale: ArrayLike = 1.0) -> Tree:
  r"""Gradient reversal: the identity, with the gradient times `-scale`.

  .. math:: R(x) = x, \qquad \frac{\partial R}{\partial x} = -\lambda I

  It works in forward and reverse mode. Apply it to features to train an encoder
  against a discriminator, or to the parameters of the discriminator to keep the
  sign of the loss.

  Args:
    tree: a pytree of arrays of any shape; integer leaves do not change.
    scale: the factor lambda. May be traced; it receives no gradient.

  Returns:
    The same tree.

  Raises:
    TypeError: if a leaf is not an array.

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

  Use it where a value of a matrix decomposition is stationary in the factors:
  the derivative of the decomposition is then not needed, and it is infinite for
  equal eigenvalues.

  Args:
    value: the result.
    surrogate: the same shape; its derivatives become those of the result.

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
