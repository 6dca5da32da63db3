"""The common parts of the updates by the gradients of several domains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import ops

Loss = Callable[[Any, Any], tuple[Array, Any]]


def of_domain(loss: Loss) -> Callable[[Any, Any], Array]:
  """A domain's own loss: of a batch without the axis of domains."""

  def own(params: Any, batch: Any) -> Array:
    return loss(params, jax.tree.map(lambda x: x[None], batch))[0]

  return own


def by_domain(
  loss: Loss, params: Any, batch: Any, axis_name: str | None
) -> tuple[tuple[Array, Any], Any]:
  """Each domain's gradient, with the mean of the losses and the new state.

  State that is of one domain alone, such as batch statistics, is averaged.
  """

  def own(params: Any, batch: Any) -> tuple[Array, Any]:
    return loss(params, jax.tree.map(lambda x: x[None], batch))

  (values, (moved, metrics)), gradients = jax.vmap(
    jax.value_and_grad(own, has_aux=True), (None, 0)
  )(params, batch)
  moved = jax.tree.map(_mean, moved)
  metrics = jax.tree.map(lambda x: jnp.sum(x, 0), metrics)
  gradients = ops.mean_over_devices(gradients, axis_name)
  return (jnp.mean(values), (moved, metrics)), gradients


def optax_update(optimizer: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """An optimizer's step, as the meta-learning functions call it."""

  def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradients, state, params)
    moved = jax.tree.map(lambda x, u: (x + u).astype(x.dtype), params, updates)
    return moved, state

  return update


def _mean(x: Array) -> Array:
  """The mean of state; a counter is the same in all domains."""
  if jnp.issubdtype(x.dtype, jnp.floating):
    return jnp.mean(x, 0)
  return x[0]
