"""Means and deviations of feature maps, and partners for them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax.generalization._mixing_partners import sample_beta
from kdjax.generalization._mixing_partners import sample_partners
from kdjax.generalization._mixing_partners import split_key
from kdjax.ops import as_fraction
from kdjax.ops import as_number
from kdjax.ops import check_choice
from kdjax.ops import check_positive
from kdjax.ops import check_range
from kdjax.ops import compute_dtype


def style_moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
  """Returns mean and variance over n - 1; that of a single value is 0."""
  mean = jnp.mean(x, axes, keepdims=True)
  count = x.size // mean.size
  squares = jnp.sum(jnp.square(x - mean), axes, keepdims=True)
  return mean, squares / max(count - 1, 1)


def drawn_partners(
  name: str,
  features: Array,
  key: Any | None,
  alpha: ArrayLike,
  probability: ArrayLike,
  mix: str,
  domains: Array | None,
  where: Array | None,
  partners: Array | None,
  weights: Array | None,
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
  """Returns partners and weights, drawn unless given."""
  check_choice("mix", mix, ("random", "crossdomain"))
  check_positive("alpha", alpha)
  check_range("probability", probability, 0.0, 1.0)
  batch, dtype = features.shape[0], compute_dtype(features)
  keys = split_key(name, key, partners is None or weights is None)
  if partners is None:
    partners = sample_partners(
      keys[0], batch, mix=mix, domains=domains, where=where
    )
  if weights is None:
    weights = sample_beta(keys[1], (batch,), alpha, alpha, dtype)
    chance = as_number("probability", probability, dtype)
    mixed = jax.random.uniform(keys[2], (), dtype) < chance
    weights = jnp.where(mixed, weights, 1.0)
  weights = as_fraction("weights", weights, dtype, shape=(batch,))
  return partners, jax.lax.stop_gradient(weights)
