"""Meta-learning for domain generalization (MLDG)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.generalization._inner_step import inner_step


@ops.validate
def mldg(
  loss_fn: Callable[[Any, Any], Array],
  params: Any,
  train_batches: Any,
  test_batches: Any,
  *,
  inner_update: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
  inner_state: Any = None,
  step_size: ArrayLike = 1e-2,
  beta: ArrayLike = 1.0,
  first_order: bool = False,
) -> Float[Array, ""]:
  r"""Meta-learning for domain generalization (MLDG): adds meta-test losses.

  .. math::
    \ell(\theta) = F(\theta) + \beta\, G(\theta'), \qquad
    \theta' = \theta - \alpha \nabla F(\theta)

  with the mean loss F of the domains in `train_batches` and the mean loss G of
  the domains in `test_batches`. The caller splits the domains anew each step,
  here four domains into two and two::

    order = jax.random.permutation(key, 4)
    train, test = (
      jax.tree.map(lambda x, i=i: x[i], batches) for i in (order[:2], order[2:])
    )

  Differentiate the result by `params`. Any Optax optimizer can make the inner
  step::

    def inner_update(gradients, state, params):
      updates, state = optimizer.update(gradients, state, params)
      return optax.apply_updates(params, updates), state

  with `inner_state=optimizer.init(params)`.

  Args:
    loss_fn: `loss_fn(params, batch) -> loss`, the mean loss of one domain.
    params: a pytree of arrays.
    train_batches: a pytree of arrays with a leading axis of domains.
    test_batches: the same for other domains; the numbers of domains may differ.
    inner_update: `inner_update(gradients, state, params) -> params, state`;
      None for gradient descent.
    inner_state: the state of `inner_update`.
    step_size: alpha, the inner step size of gradient descent. May be traced.
    beta: the weight of G. May be traced.
    first_order: True treats \theta' - \theta as a constant, without second
      derivatives, as in DomainBed and DeepDG.

  Returns:
    A scalar. Published: beta 1. TLlib trains on 2 of 3 domains, uses the
    optimizer's learning rate for the inner step and offers both orders. DeepDG
    uses an inner step size of 0.01.

  Raises:
    ValueError: if a static step size is not above 0.

  DomainBed pairs each of m training domains with one test domain and makes an
  inner step for each pair. It divides the sum over pairs by the number n of all
  domains: `m / n` times the mean of first-order episodes of one domain each
  (`jax.vmap` over this function). The authors' code sums the losses of the
  training domains; this function averages them, as the paper does.

  Examples:
    >>> def loss_fn(params, batch):
    ...   return jnp.mean((params - batch) ** 2)
    >>> train, test = jnp.array([[1.0]]), jnp.array([[3.0]])
    >>> value, gradient = jax.value_and_grad(mldg, 1)(
    ...   loss_fn, jnp.array(0.0), train, test, step_size=0.25
    ... )
    >>> print(value, gradient)
    7.25 -4.5

  References:
    Li et al., `Learning to generalize: meta-learning for domain generalization
    <https://arxiv.org/abs/1710.03463>`_, 2018.
  """
  ops.check_positive("step_size", step_size)

  params = jax.tree.map(jnp.asarray, params)

  def mean_loss(params: Any, batches: Any) -> Array:
    return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, batches))

  train_loss, gradients = jax.value_and_grad(mean_loss)(params, train_batches)
  if first_order:
    gradients = jax.lax.stop_gradient(gradients)
  adapted, _ = inner_step(inner_update, step_size)(
    gradients, inner_state, params
  )
  if first_order:
    # The adapted parameters, with the gradient of the original parameters.
    adapted = jax.tree.map(
      lambda new, old: (
        jax.lax.stop_gradient(new) + (old - jax.lax.stop_gradient(old))
      ),
      adapted,
      params,
    )
  test_loss = mean_loss(adapted, test_batches)
  return train_loss + jnp.asarray(beta, test_loss.dtype) * test_loss
