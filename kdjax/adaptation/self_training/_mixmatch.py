"""MixMatch: label guessing, sharpening and the unlabeled loss."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def sharpen(
  probabilities: Float[Array, "*batch classes"],
  *,
  temperature: ArrayLike = 0.5,
) -> Float[Array, "*batch classes"]:
  r"""Sharpening (MixMatch): probabilities to the power 1 / T, normalized.

  .. math:: q_c = p_c^{1 / T} \Big/ \sum_k p_k^{1 / T}

  Args:
    probabilities: `[*batch, classes]`, p >= 0, of any sum.
    temperature: T > 0, a scalar or one per row; T < 1 sharpens. May be traced.

  Returns:
    Probabilities of the same shape; a row of zeros stays zero.

  Raises:
    ValueError: if a static temperature is not above 0.

  Published: T = 0.5. Dassl's `temperature` is the exponent 1 / T = 2.

  Examples:
    >>> print(f"{sharpen(jnp.array([0.75, 0.25]), temperature=0.5)[0]:.2f}")
    0.90

  References:
    Berthelot et al., `MixMatch: a holistic approach to semi-supervised
    learning <https://arxiv.org/abs/1905.02249>`_, 2019.
  """
  probabilities = probabilities.astype(ops.compute_dtype(probabilities))
  present = ~(probabilities <= 0)  # True for NaN, which must reach the caller
  logits = jnp.where(
    present, jnp.log(jnp.where(present, probabilities, 1.0)), -jnp.inf
  )
  return ops.softened_softmax(logits, temperature=temperature)


@ops.validate
def guess_labels(
  logits: Float[Array, "views *batch classes"],
  *,
  temperature: ArrayLike = 0.5,
) -> Float[Array, "*batch classes"]:
  r"""Label guessing (MixMatch): sharpened mean prediction of several views.

  .. math::
    q = \operatorname{sharpen}\Bigl(\operatorname*{mean}_k p^{(k)}, T\Bigr)

  Args:
    logits: `[views, *batch, classes]`, of K augmented views.
    temperature: T > 0. May be traced.

  Returns:
    Soft labels `[*batch, classes]`, the same for all views; no gradient.

  Raises:
    ValueError: if a static temperature is not above 0.

  The method then applies MixUp to inputs and labels of all labeled and
  unlabeled examples, shuffled together, with weights max(lambda, 1 - lambda)
  and lambda from Beta(0.75, 0.75).

  Examples:
    >>> guess_labels(jnp.array([[[1e4, 0.0]], [[1e4, 0.0]]]))
    Array([[1., 0.]], dtype=float32)

  References:
    Berthelot et al., `MixMatch <https://arxiv.org/abs/1905.02249>`_, 2019.
  """
  logits = jax.lax.stop_gradient(logits)
  mean = jnp.mean(ops.softened_softmax(logits), 0)
  return sharpen(mean, temperature=temperature)


@ops.validate
def mixmatch_loss(
  logits: Float[Array, "*batch classes"],
  targets: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""MixMatch: loss of unlabeled examples, the Brier score.

  .. math:: \ell = \operatorname*{mean}_c (p_c - q_c)^2

  Args:
    logits: `[*batch, classes]`, of mixed inputs.
    targets: `[*batch, classes]`, the guessed labels, mixed like the inputs; no
      gradient.

  Returns:
    One value an example, the mean over classes. Published weight: 75 for
    CIFAR-10, 250 for SVHN, times a `linear_ramp_up` (Dassl: 100).

  Raises:
    ValueError: if the shapes differ.

  Examples:
    >>> mixmatch_loss(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))
    Array([0.25], dtype=float32)

  References:
    Berthelot et al., `MixMatch <https://arxiv.org/abs/1905.02249>`_, 2019.
  """
  gap = ops.softened_softmax(logits) - jax.lax.stop_gradient(targets)
  return jnp.mean(jnp.square(gap), -1)
