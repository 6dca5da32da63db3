"""Partners of examples, and the shares of a mixture."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax.ops import as_number
from kdjax.ops import check_choice


def split_key(name: str, key: Any | None, needed: bool) -> tuple[Any, Any, Any]:
  """Returns three keys, or Nones if there is nothing to draw."""
  if key is None:
    if needed:
      raise ValueError(
        f"{name}: key is None; expected a PRNG key, or partners and weights."
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
  """Draws each example's partner among those that count.

  Args:
    key: a PRNG key.
    batch: the number of examples.
    mix: "random" permutes the batch. "crossdomain" takes examples of another
      domain, each once if there are enough; of any if there is no other.
    domains: each example's domain; None makes one of each half of the batch.
    where: which examples count; the others are their own partners.

  Returns:
    `[batch]`, indices.
  """
  check_choice("mix", mix, ("random", "crossdomain"))
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
  mine, others = same & keep[None], ~same & keep[None]
  # The examples of a domain share one order of all others.
  noise = jax.random.uniform(noise_key, (batch, batch))
  noise = noise[jnp.argmax(same, 1)]
  order = jnp.argsort(jnp.where(others, noise, jnp.inf), 1)
  count = jnp.sum(others, 1)
  place = jnp.sum(mine & (index[None] < index[:, None]), 1)
  redrawn = jax.random.randint(redraw_key, (batch,), 0, jnp.maximum(count, 1))
  place = jnp.where(jnp.sum(mine, 1) > count, redrawn, place)
  crossed = jnp.take_along_axis(order, place[:, None], 1)[:, 0]
  return jnp.where(keep & (count > 0), crossed, partners)


def sample_beta(
  key: Any,
  shape: tuple[int, ...],
  alpha: ArrayLike,
  beta: ArrayLike,
  dtype: Any,
) -> Float[Array, "..."]:
  """Draws weights from a Beta distribution."""
  a, b = as_number("alpha", alpha, dtype), as_number("beta", beta, dtype)
  return jax.random.beta(key, a, b, shape, dtype)


def expand(values: Array, like: Array) -> Array:
  """Returns values with trailing axes of size 1, up to the rank of `like`."""
  return jnp.expand_dims(values, range(values.ndim, like.ndim))
