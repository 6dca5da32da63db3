"""FedGen: a generator of embeddings that the clients agree on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def fedgen_generator_loss(
  client_logits: Float[Array, "clients batch classes"],
  labels: Int[Array, " batch"],
  weights: Float[Array, "clients classes"],
) -> Float[Array, " batch"]:
  r"""FedGen, server: clients take generated embeddings for their class.

  .. math:: \ell = \sum_k w_{ky} H(y, z_k)

  Args:
    client_logits: `[clients, batch, classes]`, of the clients' heads on the
      generated embeddings.
    labels: `[batch]`, which the embeddings were generated for.
    weights: `[clients, classes]`, the share of each client in the examples of
      a class: columns sum to 1; no gradient.

  Returns:
    One value an example. Published weight: 1, beside `fedgen_diversity_loss`.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array has a wrong dtype.

  A client adds to its own cross-entropy that of its head on generated
  embeddings of sampled labels, with a weight of 10 times 0.98 to the number of
  the round, and the KL divergence from its head's answer to the embedding
  generated for the label of each example, with the same weight.

  Examples:
    >>> logits = jnp.zeros((2, 1, 2))
    >>> weights = jnp.array([[0.75, 0.5], [0.25, 0.5]])
    >>> print(fedgen_generator_loss(logits, jnp.array([0]), weights))
    [0.6931472]

  References:
    Zhu, Hong and Zhou, `Data-free knowledge distillation for heterogeneous
    federated learning <https://arxiv.org/abs/2105.10056>`_, 2021.
  """
  rows = jnp.broadcast_to(labels[None], client_logits.shape[:2])
  values = ops.cross_entropy(client_logits, rows)
  fixed = jax.lax.stop_gradient(weights.astype(ops.compute_dtype(weights)))
  inside = (labels >= 0) & (labels < weights.shape[1])
  shares = fixed[:, jnp.where(inside, labels, 0)]
  return jnp.sum(shares * jnp.where(shares == 0, 0.0, values), 0)


@ops.validate
def fedgen_diversity_loss(
  embeddings: Float[Array, "batch dims"],
  noise: Float[Array, "batch noise_dims"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""FedGen's diversity: other noise makes another embedding.

  .. math::
    \ell = \exp\Bigl(-\operatorname*{mean}_{ij}
      \frac{\lVert \epsilon_i - \epsilon_j \rVert_2^2}{N}
      \frac{\lVert z_i - z_j \rVert_1}{D}\Bigr)

  Args:
    embeddings: z, `[batch, dims]`, generated.
    noise: epsilon, `[batch, noise_dims]`, that they were generated from; no
      gradient.
    where: `[batch]`, True for the examples to use.
    axis_name: the mapped axis over which the batch is split.

  Returns:
    A scalar, between 0 and 1; 0 if all examples are masked. All pairs count,
    those of an example with itself included. Published weight: 1.

  Raises:
    ValueError: if the batches differ in size.
    TypeError: if an array is not floating-point.

  Examples:
    >>> rows = jnp.array([[0.0], [1.0]])
    >>> print(f"{fedgen_diversity_loss(rows, rows):.4f}")  # exp(-1 / 2)
    0.6065

  References:
    Zhu, Hong and Zhou, `Data-free knowledge distillation for heterogeneous
    federated learning <https://arxiv.org/abs/2105.10056>`_, 2021.
  """
  rows, mask = ops.gathered_rows(embeddings, where, axis_name)
  seeds, _ = ops.gathered_rows(jax.lax.stop_gradient(noise), where, axis_name)
  far = jnp.mean(ops.safe_abs(rows[:, None] - rows[None]), -1)
  apart = jnp.mean(jnp.square(seeds[:, None] - seeds[None]), -1)
  pairs = mask[:, None] * mask[None]
  mean = jnp.sum(pairs * apart * far) / jnp.maximum(jnp.sum(pairs), 1)
  value = jnp.where(jnp.sum(mask) > 0, jnp.exp(-mean), 0.0)
  return ops.mean_over_devices(value, axis_name)
