"""Masks of gradients that domains agree on: AND-mask and SAND-mask."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import check_positive
from kdjax.ops import check_range
from kdjax.ops import compute_dtype
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


def domain_gradients(
  loss_fn: Callable[[Any, Any], Array], params: Any, batches: Any
) -> tuple[Float[Array, " domains"], Any]:
  r"""Domain gradients: each domain's loss and its gradient, in one program.

  .. math:: \ell_d(\theta), \quad \nabla_\theta \ell_d(\theta)

  Args:
    loss_fn: `loss_fn(params, batch) -> loss`, a domain's mean loss.
    params: a pytree of arrays.
    batches: a pytree of arrays with a leading axis of domains.

  Returns:
    Losses `[domains]`, and gradients as `params` with a leading axis of
    domains. If a domain's batch is spread over devices, average both over them
    (`jax.lax.pmean`) before what follows: signs of parts are not the signs of
    the whole.

  Raises:
    TypeError: if the loss is no scalar.

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
  return jax.vmap(jax.value_and_grad(loss_fn), (None, 0))(params, batches)


@validate
def andmask(
  gradients: Any,
  *,
  threshold: ArrayLike = 1.0,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Any:
  r"""AND-mask: the mean gradient where the domains agree on its sign.

  .. math::
    m = \bigl[\, \lvert \operatorname*{mean}_d \operatorname{sign} g_d \rvert
      \ge \tau \bigr], \qquad
    g = \frac{m \odot \operatorname*{mean}_d g_d}
             {10^{-10} + \operatorname{mean} m}

  for each array of parameters by itself: the fewer entries are left of it, the
  longer their step.

  Args:
    gradients: a pytree of arrays with a leading axis of domains
      (`domain_gradients`).
    threshold: tau, in [0, 1]; 1 asks all domains to agree. May be traced.
    where: `[domains]`, which domains are in the batch.
    axis_name: the mapped axis that holds other domains, if any.

  Returns:
    The masked gradient, without the axis of domains. Give it to the optimizer
    in place of the gradient of the mean loss. Published threshold: 1
    (DomainBed), 0.5 or 0.82 in DeepDG's tables.

  Raises:
    ValueError: if a static threshold is outside [0, 1].

  Weight decay belongs after the mask, as in all published codes. A mean of
  signs that misses the threshold by rounding alone counts as reaching it
  (four domains of five at 0.6).

  Examples:
    >>> gradients = {"w": jnp.array([[1.0, 2.0], [3.0, -2.0]])}
    >>> andmask(gradients)
    {'w': Array([4., 0.], dtype=float32)}

  References:
    Parascandolo et al., `Learning explanations that are hard to vary
    <https://arxiv.org/abs/2009.00329>`_, 2021.
  """
  check_range("threshold", threshold, 0.0, 1.0)

  def masked(stack: ArrayLike) -> Array:
    stack = jnp.asarray(stack)
    values, share = _counted_domains(stack, where, axis_name)
    mean, agreement = _agreement(values, share, axis_name)
    limit = as_number("threshold", threshold, values.dtype)
    mask = (agreement >= limit - 1e-6).astype(values.dtype)
    return (mask * mean / (1e-10 + jnp.mean(mask))).astype(stack.dtype)

  return jax.tree.map(masked, gradients)


@validate
def sandmask(
  gradients: Any,
  *,
  threshold: ArrayLike = 0.5,
  sharpness: ArrayLike = 10.0,
  where: Bool[Array, " domains"] | None = None,
  axis_name: str | None = None,
) -> Any:
  r"""SAND-mask: a smooth AND-mask that also asks for gradients of equal size.

  .. math::
    m = \max\Bigl(0, \tanh\Bigl[\frac{k}{\operatorname*{Var}_d g_d}
      \bigl(\lvert \operatorname*{mean}_d \operatorname{sign} g_d \rvert
            - \tau \bigr) \Bigr]\Bigr), \qquad
    g = \frac{m \odot \operatorname*{mean}_d g_d}
             {10^{-10} + \operatorname{mean} m}

  with the variance over one less than the number of domains.

  Args:
    gradients: a pytree of arrays with a leading axis of domains
      (`domain_gradients`).
    threshold: tau, in [0, 1]. May be traced.
    sharpness: k, above 0. May be traced.
    where: `[domains]`, which domains are in the batch.
    axis_name: the mapped axis that holds other domains, if any.

  Returns:
    The masked gradient, without the axis of domains. Published sharpness: 10.
    DomainBed's default threshold is 1, which no agreement exceeds: its masks
    are 0 and nothing is learned; its random search draws from [0, 1]. Here the
    default is that range's middle.

  Raises:
    ValueError: if a static threshold is outside [0, 1] or the sharpness is not
      above 0.

  Equal gradients have no variance: their mask is 1 above the threshold and 0
  elsewhere (1e-17 instead of 0 in DomainBed).

  Examples:
    >>> gradients = {"w": jnp.array([[1.0, 2.0], [1.0, -2.0]])}
    >>> sandmask(gradients)
    {'w': Array([2., 0.], dtype=float32)}

  References:
    Shahtalebi et al., `SAND-mask <https://arxiv.org/abs/2106.02266>`_, 2021.
  """
  check_range("threshold", threshold, 0.0, 1.0)
  check_positive("sharpness", sharpness)

  def masked(stack: ArrayLike) -> Array:
    stack = jnp.asarray(stack)
    values, share = _counted_domains(stack, where, axis_name)
    mean, agreement = _agreement(values, share, axis_name)
    count = sum_over_devices(jnp.sum(share > 0, dtype=values.dtype), axis_name)
    squares = jnp.square(values - mean[None])
    variance = sum_over_devices(_weighted(share, squares), axis_name)
    variance *= count / jnp.maximum(count - 1, 1)
    excess = agreement - as_number("threshold", threshold, values.dtype)
    # Shares of domains are rounded, as in the AND-mask.
    excess = jnp.where(jnp.abs(excess) < 1e-6, 0.0, excess)
    none = variance == 0
    slope = as_number("sharpness", sharpness, values.dtype) * excess
    slope = jnp.where(
      none,
      jnp.where(excess > 0, jnp.inf, 0.0),
      slope / jnp.where(none, 1.0, variance),
    )
    mask = jnp.maximum(jnp.tanh(slope), 0.0)
    return (mask * mean / (1e-10 + jnp.mean(mask))).astype(stack.dtype)

  return jax.tree.map(masked, gradients)


def _counted_domains(
  stack: Array, where: Array | None, axis_name: str | None
) -> tuple[Array, Array]:
  """Returns the values, 0 where masked, and each domain's share in a mean."""
  values = stack.astype(compute_dtype(stack))
  if where is None:
    where = jnp.ones(stack.shape[:1], bool)
  elif where.shape != stack.shape[:1]:
    raise ValueError(
      f"where has shape {where.shape}; expected one value a domain, "
      f"{stack.shape[:1]}, as in gradients."
    )
  mask = where.astype(values.dtype)
  count = jnp.maximum(sum_over_devices(jnp.sum(mask), axis_name), 1)
  keep = jnp.expand_dims(where, range(1, values.ndim))
  return jnp.where(keep, values, 0.0), mask / count


def _weighted(share: Array, values: Array) -> Array:
  share = jnp.expand_dims(share, range(1, values.ndim))
  return jnp.sum(share * values, 0)


def _agreement(
  values: Array, share: Array, axis_name: str | None
) -> tuple[Array, Array]:
  """Returns the mean gradient, and the size of its mean sign."""
  mean, signs = sum_over_devices(
    (_weighted(share, values), _weighted(share, jnp.sign(values))), axis_name
  )
  return mean, jnp.abs(signs)
