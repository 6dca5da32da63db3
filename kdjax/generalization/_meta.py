"""Meta-learning over domains: MLDG and Fish."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
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
  r"""Meta-learning domain generalisation (MLDG): a step that helps elsewhere.

  .. math::
    \ell(\theta) = F(\theta) + \beta\, G(\theta'), \qquad
    \theta' = \theta - \alpha \nabla F(\theta)

  with F the mean loss of the domains in `train_batches` and G that of those in
  `test_batches`, which the caller splits anew each step, here two of four::

    order = jax.random.permutation(key, 4)
    train, test = (
      jax.tree.map(lambda x, i=i: x[i], batches) for i in (order[:2], order[2:])
    )

  It is a loss like any other: take its gradient by `params`. Any Optax
  optimizer makes the inner step::

    def inner_update(gradients, state, params):
      updates, state = optimizer.update(gradients, state, params)
      return optax.apply_updates(params, updates), state

  with `inner_state=optimizer.init(params)`.

  Args:
    loss_fn: `loss_fn(params, batch) -> loss`, a domain's mean loss.
    params: a pytree of arrays.
    train_batches: a pytree of arrays with a leading axis of domains.
    test_batches: the same, of other domains; their number may differ.
    inner_update: `inner_update(gradients, state, params) -> params, state`;
      None for a step of gradient descent.
    inner_state: the state of `inner_update`.
    step_size: alpha, of gradient descent. May be traced.
    beta: the weight of G. May be traced.
    first_order: whether \theta' counts as \theta plus a constant: no second
      derivatives, as in DomainBed and DeepDG.

  Returns:
    A scalar. Published: beta 1; TLlib takes 2 domains of 3 to train, the
    optimizer's own rate inside and both orders; DeepDG an inner rate of 0.01.

  Raises:
    ValueError: if a static step size is not above 0.

  DomainBed pairs each of m training domains with one test domain, makes an
  inner step for each pair and divides the sum by the number n of all domains,
  not of pairs: `m / n` times the mean of `jax.vmap`-ed episodes of one domain
  each, of first order. The authors' code adds the losses of training domains
  where the paper, and this, takes their mean.

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
  check_positive("step_size", step_size)

  params = jax.tree.map(jnp.asarray, params)

  def mean_loss(params: Any, batches: Any) -> Array:
    return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, batches))

  train_loss, gradients = jax.value_and_grad(mean_loss)(params, train_batches)
  if first_order:
    gradients = jax.lax.stop_gradient(gradients)
  adapted, _ = _inner(inner_update, step_size)(gradients, inner_state, params)
  if first_order:
    # The value of the adapted parameters, to the bit, and their own gradient.
    adapted = jax.tree.map(
      lambda new, old: (
        jax.lax.stop_gradient(new) + (old - jax.lax.stop_gradient(old))
      ),
      adapted,
      params,
    )
  test_loss = mean_loss(adapted, test_batches)
  return train_loss + jnp.asarray(beta, test_loss.dtype) * test_loss


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
      which any Optax optimizer gives, as :func:`mldg` shows; None for a step of
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
  update = _inner(inner_update, step_size)

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


def _inner(
  inner_update: Callable[[Any, Any, Any], tuple[Any, Any]] | None,
  step_size: ArrayLike,
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """Returns the inner step, by default one of gradient descent."""
  if inner_update is not None:
    return inner_update

  def descend(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    def moved(value: Array, gradient: Array) -> Array:
      return value - jnp.asarray(step_size, gradient.dtype) * gradient

    return jax.tree.map(moved, params, gradients), state

  return descend
