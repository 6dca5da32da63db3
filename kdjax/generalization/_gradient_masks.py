"""Gradient masks of agreeing signs: AND-mask and SAND-mask."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from kdjax import ops


@ops.validate
def domain_gradients(
  loss_fn: Callable[[Any, Any], Array], params: PyTree, batches: PyTree
) -> tuple[Float[Array, " domains"], Any]:
  r"""Domain gradients: computes the loss and the gradient of each domain.

  .. math:: \ell_d(\theta), \quad \nabla_\theta \ell_d(\theta)

  Args:
    loss_fn: `loss_fn(params, batch) -> loss`, the mean loss of one domain.
    params: a pytree of arrays.
    batches: a pytree of arrays with a leading axis of domains.

  Returns:
    Losses `[domains]`, and gradients shaped as `params` with a leading axis of
    domains. If the batch of a domain is spread over devices, average both over
    devices (`jax.lax.pmean`) before `andmask` and `sandmask`: the signs of one
    device's gradients are not the signs of the mean gradients.

  Raises:
    TypeError: if the loss is not a scalar.

  Examples:
    >>> def loss_fn(params, batch):
    ...   return jnp.mean(params * batch)
    >>> losses, gradients = domain_gradients(
    ...   loss_fn, jnp.array(2.0), jnp.array([[1.0, 3.0], [-1.0, 0.0]])
    ... )
    >>> print(losses, gradients)
    [ 4. -1.] [ 2.  -0.5]

  References:
    Parascandolo et al., `Learning explanations that are hard to vary
    <https://arxiv.org/abs/2009.00329>`_, 2021.
  """
  ops.leading_size("domain_gradients: batches", batches)
  loss = ops.real_scalar("domain_gradients: loss_fn", loss_fn)
  params = ops.float_leaves("domain_gradients: params", params)
  return jax.vmap(jax.value_and_grad(loss), (None, 0))(params, batches)


@ops.validate
def andmask(
  gradients: PyTree,
  *,
  threshold: ArrayLike = 1.0,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Any:
  r"""AND-mask: keeps gradient entries on whose sign the domains agree.

  .. math::
    m = \bigl[\, \lvert \operatorname*{mean}_d \operatorname{sign} g_d \rvert
      \ge \tau \bigr], \qquad
    g = \frac{m \odot \operatorname*{mean}_d g_d}
             {10^{-10} + \operatorname{mean} m}

  for each parameter array separately. The division by the mean of m enlarges
  the remaining entries if few remain.

  Args:
    gradients: a pytree of arrays with a leading axis of domains
      (`domain_gradients`).
    threshold: tau, in [0, 1]; at 1, all domains must agree. May be traced.
    where: `[domains]`, True for the domains to use.
    axis_name: the mapped axis that holds other domains, if any.

  Returns:
    The masked mean gradient, without the axis of domains. Pass it to the
    optimizer instead of the gradient of the mean loss. Published threshold: 1
    (DomainBed), 0.5 or 0.82 in DeepDG's tables.

  Raises:
    ValueError: if a static threshold is outside [0, 1].

  Apply weight decay after the mask, as all published implementations do. The
  comparison has a tolerance of 1e-6: the mean sign of four against one domain
  reaches a threshold of 0.6 in spite of rounding.

  Examples:
    >>> gradients = {"w": jnp.array([[1.0, 2.0], [3.0, -2.0]])}
    >>> andmask(gradients)
    {'w': Array([4., 0.], dtype=float32)}

  References:
    Parascandolo et al., `Learning explanations that are hard to vary
    <https://arxiv.org/abs/2009.00329>`_, 2021.
  """
  ops.check_range("threshold", threshold, 0.0, 1.0)

  def masked(stack: ArrayLike) -> Array:
    stack = jnp.asarray(stack)
    values, share = _masked_domains(stack, where, axis_name)
    mean, agreement = _mean_and_agreement(values, share, axis_name)
    limit = ops.as_number("threshold", threshold, values.dtype)
    mask = (agreement >= limit - 1e-6).astype(values.dtype)
    kept = ops.keep_nan(mask * mean, mean)
    return (kept / (1e-10 + jnp.mean(mask))).astype(stack.dtype)

  return jax.tree.map(masked, gradients)


@ops.validate
def sandmask(
  gradients: PyTree,
  *,
  threshold: ArrayLike = 0.5,
  sharpness: ArrayLike = 10.0,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Any:
  r"""SAND-mask: a smooth AND-mask that also prefers gradients of equal size.

  .. math::
    m = \max\Bigl(0, \tanh\Bigl[\frac{k}{\operatorname*{Var}_d g_d}
      \bigl(\lvert \operatorname*{mean}_d \operatorname{sign} g_d \rvert
            - \tau \bigr) \Bigr]\Bigr), \qquad
    g = \frac{m \odot \operatorname*{mean}_d g_d}
             {10^{-10} + \operatorname{mean} m}

  for each parameter array separately. The variance divides by the number of
  domains minus 1.

  Args:
    gradients: a pytree of arrays with a leading axis of domains
      (`domain_gradients`).
    threshold: tau, in [0, 1]. May be traced.
    sharpness: k, above 0. May be traced.
    where: `[domains]`, True for the domains to use.
    axis_name: the mapped axis that holds other domains, if any.

  Returns:
    The masked mean gradient, without the axis of domains. Published sharpness:
    10. DomainBed's default threshold is 1, with which all masks are 0 and the
    parameters never change; its random search draws from [0, 1]. The default
    here is the middle of that range.

  Raises:
    ValueError: if a static threshold is outside [0, 1] or the sharpness is not
      above 0.

  Where all gradients are equal, the variance is 0 and the mask is 1 above the
  threshold, else 0 (DomainBed: 1e-17).

  Examples:
    >>> gradients = {"w": jnp.array([[1.0, 2.0], [1.0, -2.0]])}
    >>> sandmask(gradients)
    {'w': Array([2., 0.], dtype=float32)}

  References:
    Shahtalebi et al., `SAND-mask <https://arxiv.org/abs/2106.02266>`_, 2021.
  """
  ops.check_range("threshold", threshold, 0.0, 1.0)
  ops.check_positive("sharpness", sharpness)

  def masked(stack: ArrayLike) -> Array:
    stack = jnp.asarray(stack)
    values, share = _masked_domains(stack, where, axis_name)
    mean, agreement = _mean_and_agreement(values, share, axis_name)
    count = ops.sum_over_devices(
      jnp.sum(share > 0, dtype=values.dtype), axis_name
    )
    squares = jnp.square(values - mean[None])
    variance = ops.sum_over_devices(_weighted_sum(share, squares), axis_name)
    variance *= count / jnp.maximum(count - 1, 1)
    excess = agreement - ops.as_number("threshold", threshold, values.dtype)
    # The mean sign is rounded: see the tolerance of the AND-mask.
    excess = jnp.where(jnp.abs(excess) < 1e-6, 0.0, excess)
    constant = variance == 0
    slope = ops.as_number("sharpness", sharpness, values.dtype) * excess
    slope = jnp.where(
      constant,
      jnp.where(excess > 0, jnp.inf, 0.0),
      slope / jnp.where(constant, 1.0, variance),
    )
    mask = ops.at_least(jnp.tanh(slope), 0.0)
    kept = ops.keep_nan(mask * mean, mean)
    return (kept / (1e-10 + jnp.mean(mask))).astype(stack.dtype)

  return jax.tree.map(masked, gradients)


def _masked_domains(
  stack: Array, where: Array | None, axis_name: str | None
) -> tuple[Array, Array]:
  """Returns values, 0 where masked, and each domain's weight in a mean."""
  if not stack.ndim:
    raise ValueError(
      "gradients has a scalar; expected a leading axis of domains."
    )
  values = stack.astype(ops.compute_dtype(stack))
  if where is None:
    where = jnp.ones(stack.shape[:1], bool)
  elif where.shape != stack.shape[:1]:
    raise ValueError(
      f"where has shape {where.shape}; expected one value a domain, "
      f"{stack.shape[:1]}, the leading axis of gradients."
    )
  mask = where.astype(values.dtype)
  count = jnp.maximum(ops.sum_over_devices(jnp.sum(mask), axis_name), 1)
  keep = jnp.expand_dims(where, range(1, values.ndim))
  return jnp.where(keep, values, 0.0), mask / count


def _weighted_sum(share: Array, values: Array) -> Array:
  share = jnp.expand_dims(share, range(1, values.ndim))
  return jnp.sum(share * values, 0)


def _mean_and_agreement(
  values: Array, share: Array, axis_name: str | None
) -> tuple[Array, Array]:
  """Returns the mean gradient and the absolute value of the mean sign."""
  mean, signs = ops.sum_over_devices(
    (_weighted_sum(share, values), _weighted_sum(share, jnp.sign(values))),
    axis_name,
  )
  return mean, jnp.abs(signs)
