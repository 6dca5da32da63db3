"""Probabilities of the labeled class and of the other classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def one_hot(labels: Array, logits: Array) -> Array:
  return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


def product(weight: Array, value: Array) -> Array:
  """Returns weight * value, 0 where the weight is 0."""
  return weight * jnp.where(weight == 0, 0.0, value)


def target_and_rest(
  logits: Array, own: Array, others: Array, scale: Array
) -> Array:
  """Returns two logits: of the label, and of all others together.

  Their softmax is [q_y, 1 - q_y]. The second is 0, or -inf if there is no other
  class.
  """
  used = others & (logits != -jnp.inf)
  top = jnp.max(logits, -1, keepdims=True, where=used, initial=-jnp.inf)
  top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0.0, top))
  weights = jnp.exp(jnp.where(used, logits - top, 0.0) / scale)
  total = jnp.sum(weights, -1, keepdims=True, where=used)
  target = jnp.take_along_axis(logits, own, -1)
  known = target != -jnp.inf
  target = jnp.where(known, target - top, 0.0) / scale
  target -= jnp.log(jnp.where(total > 0, total, 1.0))
  rest = jnp.where(total > 0, 0.0, -jnp.inf)
  # A NaN among the other logits reaches the result through `top`.
  return jnp.concatenate([jnp.where(known, target, -jnp.inf), rest], -1)
