"""Fish: inter-domain gradient matching."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.generalization._inner_step import inner_step
from kdjax.ops import check_positive
from kdjax.ops import validate


class Fish(NamedTuple):
  """The result of one round over the domains.

  Attributes:
    params: the new parameters.
    state: the inner optimizer's state, for the next round.
    losses: `[domains]`, each domain's loss before its inner step.

  References:
    Shi et al., `Gradient matching for domain generalization
    <https://arxiv.org/abs/2104.09937>`_, 2022.
  """

  params: Any
  state: Any
  losses: Float[Array, " domains"]


@validate
def fish(
  loss_fn: Callable[[Any, Any], Array],
  params: Any,
  batches: Any,
  *,
  inner_update: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
  inner_state: Any = None,
  step_size: ArrayLike = 1e-3,
  meta_step_size: ArrayLike = 0.5,
  key: Any | None = None,
) -> Fish:
  r"""Fish: inner steps domain by domain, then part of the way there.

  .. math::
    \theta_0 = \theta, \quad
    \theta_d = \theta_{d-1} - \alpha \nabla \ell_d(\theta_{d-1}), \qquad
    \theta \leftarrow \theta + \epsilon (\theta_D - \theta)

  To second order this adds to the gradient of the summed losses that of the
  inner products of the domains' gradients: it raises their agreement.

  Args:
    loss_fn: `loss_fn(params, batch) -> loss`, a domain's mean loss.
    params: a pytree of arrays.
    batches: a pytree of arrays with a leading axis of domains.
    inner_update: `inner_update(gradients, state, params) -> params, state`,
      which any Optax optimizer gives, as `mldg` shows; None for a step of
      gradient descent.
    inner_state: the state of `inner_update`; pass on the one returned.
    step_size: alpha, of gradient descent. May be traced.
    meta_step_size: epsilon. May be traced.
    key: draws the order of the domains, as the paper does; None keeps the order
      of the batch, as DomainBed does.

  Returns:
    New parameters (no further optimizer is needed), state and losses.
    Published: epsilon 0.5 and Adam inside, whose moments are carried on from
    round to round (DomainBed). There, BatchNorm's statistics move by epsilon
    as well: put them into `params` to have it so.

  Raises:
    ValueError: if a static step size is not above 0.

  Examples:
    >>> def loss_fn(params, batch):
    ...   return 0.5 * jnp.mean((params - batch) ** 2)
    >>> result = fish(
    ...   loss_fn, jnp.array(0.0), jnp.array([[4.0], [2.0]]), step_size=0.5
    ... )
    >>> print(result.params, result.losses)
    1.0 [8. 0.]

  References:
    Shi et al., `Gradient matching for domain generalization
    <https://arxiv.org/abs/2104.09937>`_, 2022, algorithm 1.
  """
  check_positive("step_size", step_size)
  check_positive("meta_step_size", meta_step_size)
  params = jax.tree.map(jnp.asarray, params)
  order = jnp.arange(jax.tree.leaves(batches)[0].shape[0])
  if key is not None:
    order = jax.random.permutation(key, order)
    batches = jax.tree.map(lambda x: x[order], batches)
  update = inner_step(inner_update, step_size)

  def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], Array]:
    inner, state = carry
    loss, gradients = jax.value_and_grad(loss_fn)(inner, batch)
    return update(gradients, state, inner), loss

  (inner, state), losses = jax.lax.scan(step, (params, inner_state), batches)
  moved = jax.tree.map(
    lambda old, new: old + jnp.asarray(meta_step_size, old.dtype) * (new - old),
    params,
    inner,
  )
  return Fish(moved, state, losses[jnp.argsort(order)])
