"""Adaptive feature norm (AFN)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def afn_loss(
  features: Float[Array, "*batch dims"], *, delta: ArrayLike = 1.0
) -> Float[Array, "*batch"]:
  r"""Stepwise adaptive feature norm (AFN, SAFN): increases the feature norms.

  .. math:: \ell = (\lVert f \rVert - (\lVert f \rVert' + \Delta))^2

  where the primed norm gets no gradient. The value is always Delta^2; the
  gradient increases each norm at the rate 2 Delta. To follow training, report
  the mean norm instead of this loss.

  Args:
    features: `[*batch, dims]`, of the source or of the target. The method adds
      the losses of both domains.
    delta: Delta, the step of the norm. May be traced.

  Returns:
    One value an example. Published weight: 0.05 times the mean over the batch,
    for each domain, with Delta = 1 (TLlib: 0.01 for DomainNet).

  Raises:
    TypeError: if the features are not floating-point.

  The authors' dropout keeps the norm of the features instead of their mean: it
  divides the remaining activations by sqrt(1 - p). A zero vector has no
  direction and gets gradient 0.

  Examples:
    >>> afn_loss(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    Array([1., 1.], dtype=float32)
    >>> print(jax.grad(lambda x: afn_loss(x))(jnp.array([3.0, 4.0])).round(3))
    [-1.2 -1.6]

  References:
    Xu et al., `Larger norm more transferable
    <https://arxiv.org/abs/1811.07456>`_, 2019.
  """
  norms = ops.safe_norm(features)
  delta = ops.as_number("delta", delta, norms.dtype)
  return jnp.square(norms - jax.lax.stop_gradient(norms) - delta)


@ops.validate
def hafn_loss(
  features: Float[Array, "batch dims"],
  *,
  radius: ArrayLike = 25.0,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Hard adaptive feature norm (HAFN): moves the mean norm to a radius.

  .. math:: \ell = (\operatorname{mean}_i \lVert f_i \rVert - R)^2

  Args:
    features: `[batch, dims]`, of the source or of the target. The method adds
      the losses of both domains.
    radius: R. May be traced.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; 0 with gradient 0 if all examples are masked. Published weight:
    0.05 for each domain, with R = 25.

  Raises:
    TypeError: if the features are not floating-point.

  Examples:
    >>> hafn_loss(jnp.array([[3.0, 4.0], [0.0, 0.0]]), radius=1.5)
    Array(1., dtype=float32)

  References:
    Xu et al., `Larger norm more transferable
    <https://arxiv.org/abs/1811.07456>`_, 2019.
  """
  rows, mask = ops.masked_rows(features, where)
  mean = ops.masked_mean(ops.safe_norm(rows), where, axis_name=axis_name)
  ops.check_range("radius", radius, 0.0, math.inf)
  gap = mean - ops.as_number("radius", radius, mean.dtype)
  count = ops.sum_over_devices(jnp.sum(mask), axis_name)
  return jnp.where(count > 0, jnp.square(gap), 0.0)
