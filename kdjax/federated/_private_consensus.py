"""A consensus of clients that hides each of them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def private_consensus(
  key: Array,
  logits: Float[Array, "clients batch classes"],
  *,
  clip: ArrayLike,
  noise_multiplier: ArrayLike,
  where: Bool[Array, " clients"] | None = None,
) -> Float[Array, "batch classes"]:
  r"""Private consensus: the mean of clients' logits, clipped and noised.

  .. math::
    \frac1K \Bigl( \sum_k z_k \min\bigl(1, \tfrac{C}{\lVert z_k \rVert_2}\bigr)
      + \sigma C \, \mathcal N(0, I) \Bigr)

  The norm is that of all logits of a client, over the batch and the classes.
  The logits of each example are centered first, which changes no probability
  and makes norms small.

  Args:
    key: a JAX random key, another one in each round.
    logits: z, `[clients, batch, classes]`, on public examples.
    clip: C > 0, the largest norm of a client's logits. May be traced.
    noise_multiplier: sigma >= 0; `privacy_epsilon` is the
      budget. May be traced.
    where: `[clients]`, False for clients that are lost or have no data; None
      takes all.

  Returns:
    `[batch, classes]`, logits; noise alone if all clients are masked.

  Raises:
    ValueError: if a shape does not fit or a static number is out of range.
    TypeError: if the key is none.

  The number K of clients is taken as known: the noise does not hide it.

  Examples:
    >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 30.0]]])
    >>> consensus = private_consensus(
    ...   jax.random.key(0), logits, clip=2.0, noise_multiplier=0.0
    ... )
    >>> print(f"{consensus[0, 1]:.3f}")
    0.207

  References:
    Abadi et al., `Deep learning with differential privacy
    <https://arxiv.org/abs/1607.00133>`_, 2016;
    `optax.contrib.differentially_private_aggregate
    <https://optax.readthedocs.io/en/latest/api/contrib.html>`_.
  """
  ops.check_positive("private_consensus: clip", clip)
  ops.check_range(
    "private_consensus: noise_multiplier", noise_multiplier, 0.0, float("inf")
  )
  clients = logits.shape[0]
  alive = jnp.ones(clients, bool) if where is None else where
  # A lost client may have sent anything, even NaN.
  known = jnp.where(alive[:, None, None], logits, 0.0)
  known -= jnp.mean(known, -1, keepdims=True)
  norms = ops.safe_norm(known.reshape(clients, -1))
  clip = ops.as_number("clip", clip, known.dtype)
  sigma = ops.as_number("noise_multiplier", noise_multiplier, known.dtype)
  shares = jnp.where(norms > clip, clip / jnp.where(norms == 0, 1, norms), 1)
  noise_key = jax.random.split(key)[1]  # the one that Optax takes
  noise = jax.random.normal(noise_key, known.shape[1:], known.dtype)
  total = jnp.tensordot(shares, known, axes=1) + sigma * clip * noise
  return total / jnp.maximum(jnp.sum(alive), 1).astype(total.dtype)
