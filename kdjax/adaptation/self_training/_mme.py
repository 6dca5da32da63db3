"""Minimax entropy (MME) with a prototype classifier."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.adaptation.predictions._entropy import entropy_loss


@ops.validate
def prototype_logits(
  features: Float[Array, "*batch dims"],
  prototypes: Float[Array, "classes dims"],
  *,
  temperature: ArrayLike = 0.05,
) -> Float[Array, "*batch classes"]:
  r"""Prototype classifier (MME): inner products with normalized features.

  .. math:: z_c = \frac{1}{T} \frac{f}{\lVert f \rVert} \cdot w_c

  Args:
    features: `[*batch, dims]`; a zero vector gives logits of 0.
    prototypes: `[classes, dims]`, the weights of the last layer, not
      normalized, as published.
    temperature: T > 0. May be traced.

  Returns:
    Logits, `[*batch, classes]`.

  Raises:
    ValueError: if the widths differ or a static temperature is not above 0.

  Examples:
    >>> prototype_logits(jnp.array([[3.0, 4.0]]), jnp.eye(2), temperature=1.0)
    Array([[0.6, 0.8]], dtype=float32)

  References:
    Saito et al., `Semi-supervised domain adaptation via minimax entropy
    <https://arxiv.org/abs/1904.06487>`_, 2019.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(features), ops.compute_dtype(prototypes)
  )
  features, prototypes = features.astype(dtype), prototypes.astype(dtype)
  norms = ops.safe_norm(features, keepdims=True)
  directions = features / jnp.where(norms > 0, norms, 1.0)
  logits = jnp.matmul(
    directions, prototypes.T, precision=jax.lax.Precision.HIGHEST
  )
  return logits / ops.row_temperature(temperature, logits, -1)


@ops.validate
def mme_loss(
  target_features: Float[Array, "*batch dims"],
  prototypes: Float[Array, "classes dims"],
  *,
  temperature: ArrayLike = 0.05,
  reversal: ArrayLike = 1.0,
) -> Float[Array, "*batch"]:
  r"""Minimax entropy (MME): prototypes maximize, features minimize the entropy.

  .. math::
    \ell = -H\bigl(\mathrm{softmax}(C(R(f)))\bigr)

  with C the `prototype_logits` and R a gradient reversal. All parameters
  minimize the loss: the prototypes increase the entropy and move towards the
  target features; the features decrease it and cluster around the prototypes.

  Args:
    target_features: `[*batch, dims]`, of unlabeled target examples.
    prototypes: `[classes, dims]`.
    temperature: T > 0. May be traced.
    reversal: the factor of the reversed gradient. May be traced.

  Returns:
    One value an example, minus the entropy. Published weight: 0.1 times the
    mean over the batch.

  Raises:
    ValueError: if the widths differ or a static temperature is not above 0.

  Dassl adds 1e-5 inside the logarithm; see `entropy_loss`.

  Examples:
    >>> mme_loss(jnp.array([[1.0, 1.0]]), jnp.eye(2))
    Array([-0.6931472], dtype=float32)

  References:
    Saito et al., `Semi-supervised domain adaptation via minimax entropy
    <https://arxiv.org/abs/1904.06487>`_, 2019.
  """
  logits = prototype_logits(
    ops.reverse_gradient(target_features, reversal),
    prototypes,
    temperature=temperature,
  )
  return -entropy_loss(logits)
