"""Fish: gradient matching between domains."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from kdjax import ops
from kdjax.generalization._inner_step import inner_step


@ops.exportable
class Fish(NamedTuple):
  """The result of `fish`.

  Attributes:
    params: the new parameters.
    state: the inner optimizer's state, for the next round.
    losses: `[domains]`, the loss of each domain before its inner step.

  References:
    Shi et al., `Gradient matching for domain generalization
    <https://arxiv.org/abs/2104.09937>`_, 2022.
  """

  params: Any
  state: Any
  losses: Float[Array, " domains"]


@ops.validate
def fish(
  loss_fn: Callable[[Any, Any], Array],
  params: PyTree,
  batches: PyTree,
  *,
  inner_update: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
  inner_state: Any = None,
  step_size: ArrayLike = 1e-3,
  meta_step_size: ArrayLike = 0.5,
  key: Any | None = None,
) -> Fish:
  r"""Inter-domain gradient matching (Fish): one round over the domains.

  .. math::
    \theta_0 = \theta, \quad
    \theta_d = \theta_{d-1} - \alpha \nabla \ell_d(\theta_{d-1}), \qquad
    \theta \leftarrow \theta + \epsilon (\theta_D - \theta)

  The round makes an inner step on each domain in turn, then a meta step towards
  the final inner parameters. To second order, it also increases the inner
  products of the domains' gradients.

  Args:
    loss_fn: `loss_fn(params, batch) -> loss`, the mean loss of one domain.
    params: a pytree of arrays.
    batches: a pytree of arrays with a leading axis of domains.
    inner_update: `inner_update(gradients, state, params) -> params, state`,
      made from an Optax optimizer as `mldg` shows; None for gradient descent.
    inner_state: the state of `inner_update`, at first that of a new optimizer,
      then the one that the previous round returned.
    step_size: alpha, the inner step size of gradient descent. May be traced.
    meta_step_size: epsilon. May be traced.
    key: draws the order of the domains, as in the paper; None keeps the order
      of the batch, as in DomainBed.

  Returns:
    A `Fish`; its parameters need no further optimizer. Published: epsilon 0.5
    and Adam for the inner steps, with moments that continue from round to round
    (DomainBed). DomainBed also moves the statistics of batch normalization by
    epsilon: for that, put them into `params`.

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
  ops.check_positive("step_size", step_size)
  ops.check_positive("meta_step_size", meta_step_size)
  params = ops.float_leaves("fish: params", params)
  order = jnp.arange(ops.leading_size("fish: batches", batches))
  batches = jax.tree.map(jnp.asarray, batches)
  loss = ops.real_scalar("fish: loss_fn", loss_fn)
  if key is not None:
    order = jax.random.permutation(key, order)
    batches = jax.tree.map(lambda x: x[order], batches)
  update = inner_step(inner_update, step_size)

  def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], Array]:
    inner, state = carry
    value, gradients = jax.value_and_grad(loss)(inner, batch)
    return update(gradients, state, inner), value

  (inner, state), losses = jax.lax.scan(step, (params, inner_state), batches)
  updated = jax.tree.map(
    lambda old, new: old + jnp.asarray(meta_step_size, old.dtype) * (new - old),
    params,
    inner,
  )
  return Fish(updated, state, losses[jnp.argsort(order)])
