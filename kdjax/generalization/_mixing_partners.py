"""Mixing partners of examples and mixing weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


def split_key(name: str, key: Any | None, needed: bool) -> tuple[Any, Any, Any]:
  """Returns three keys, or three times None if nothing is drawn."""
  if key is None:
    if needed:
      raise ValueError(
        f"{name}: key is None; expected a PRNG key. Only if partners and "
        "weights are given may it be None."
      )
    return None, None, None
  first, second, third = jax.random.split(key, 3)
  return first, second, third


def sample_partners(
  key: Any,
  batch: int,
  *,
  mix: str,
  domains: Int[Array, " batch"] | None = None,
  where: Bool[Array, " batch"] | None = None,
) -> Int[Array, " batch"]:
  """Draws a partner for each example.

  Args:
    key: a PRNG key.
    batch: the number of examples.
    mix: "random" permutes the batch. "crossdomain" draws partners from the
      other domains, without replacement if there are enough; in a batch of one
      domain it permutes the batch.
    domains: the domain of each example; None makes each half of the batch a
      domain.
    where: True for the examples to use; the others are their own partners.

  Returns:
    `[batch]`, indices.
  """
  ops.check_choice("mix", mix, ("random", "crossdomain"))
  index = jnp.arange(batch)
  keep = jnp.ones(batch, bool) if where is None else where
  shuffle_key, noise_key, redraw_key = jax.random.split(key, 3)

  noise = jax.random.uniform(shuffle_key, (batch,))
  order = jnp.argsort(jnp.where(keep, noise, jnp.inf))
  partners = jnp.where(keep, order[jnp.cumsum(keep) - 1], index)
  if mix == "random":
    return partners

  if domains is None:
    half = (jnp.sum(keep) + 1) // 2
    domains = (jnp.cumsum(keep) > half).astype(jnp.int32)
  same = domains[:, None] == domains[None]
  own, others = same & keep[None], ~same & keep[None]
  # The examples of a domain share one random order of the other domains, so
  # that no partner is drawn twice.
  noise = jax.random.uniform(noise_key, (batch, batch))
  noise = noise[jnp.argmax(same, 1)]
  order = jnp.argsort(jnp.where(others, noise, jnp.inf), 1)
  count = jnp.sum(others, 1)
  place = jnp.sum(own & (index[None] < index[:, None]), 1)
  redrawn = jax.random.randint(redraw_key, (batch,), 0, jnp.maximum(count, 1))
  place = jnp.where(jnp.sum(own, 1) > count, redrawn, place)
  crossed = jnp.take_along_axis(order, place[:, None], 1)[:, 0]
  return jnp.where(keep & (count > 0), crossed, partners)


def partners_and_weights(
  name: str,
  key: Any | None,
  features: Array,
  alpha: ArrayLike,
  probability: ArrayLike,
  mix: str,
  domains: Array | None,
  where: Array | None,
  partners: Array | None,
  weights: Array | None,
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
  """Returns the given partners and mixing weights; draws those not given."""
  ops.check_choice("mix", mix, ("random", "crossdomain"))
  ops.check_positive("alpha", alpha)
  ops.check_range("probability", probability, 0.0, 1.0)
  batch, dtype = features.shape[0], ops.compute_dtype(features)
  keys = split_key(name, key, partners is None or weights is None)
  if partners is None:
    partners = sample_partners(
      keys[0], batch, mix=mix, domains=domains, where=where
    )
  if weights is None:
    weights = sample_beta(keys[1], (batch,), alpha, alpha, dtype)
    chance = ops.as_number("probability", probability, dtype)
    mixed = jax.random.uniform(keys[2], (), dtype) < chance
    weights = jnp.where(mixed, weights, 1.0)
  weights = ops.as_fraction("weights", weights, dtype, shape=(batch,))
  return partners, jax.lax.stop_gradient(weights)


def sample_beta(
  key: Any,
  shape: tuple[int, ...],
  alpha: ArrayLike,
  beta: ArrayLike,
  dtype: Any,
) -> Float[Array, "..."]:
  """Draws mixing weights from a Beta distribution."""
  a, b = (
    ops.as_number("alpha", alpha, dtype),
    ops.as_number("beta", beta, dtype),
  )
  return jax.random.beta(key, a, b, shape, dtype)


def add_trailing_axes(values: Array, like: Array) -> Array:
  """Returns values with trailing axes of size 1, up to the rank of `like`."""
  return jnp.expand_dims(values, range(values.ndim, like.ndim))
