"""Proxy A-distance (PAD) between two domains."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


def proxy_a_distance(error: ArrayLike) -> Float[Array, "..."]:
  r"""Proxy A-distance (PAD) of two domains, from a domain classifier's error.

  .. math::
    \hat d_{\mathcal A} = \max(0, 2 (1 - 2 \operatorname{err}))

  The error is the share of wrong domain predictions among the held-out examples
  of both domains. With equal numbers of examples in both domains, the error is
  the mean of both domains' errors, and the value equals the H-divergence of
  `kdjax.adaptation.h_divergence_from_errors`. With unequal numbers the values
  differ: a classifier that always predicts the larger domain has a small error.

  Args:
    error: the domain classifier's error, in [0, 1], of any shape.

  Returns:
    Values in [0, 2], in the shape of the error; 0 for an error of 1/2 or more.

  Raises:
    ValueError: if a static error is outside [0, 1].

  Examples:
    >>> proxy_a_distance(jnp.array([0.0, 0.25, 0.5]))
    Array([2., 1., 0.], dtype=float32)

  References:
    Ben-David et al., `Analysis of representations for domain adaptation
    <https://proceedings.neurips.cc/paper/2006/hash/b1b0432ceafb0ce714426e9114852ac7-Abstract.html>`_,
    2006.
  """
  ops.check_range("error", error, 0.0, 1.0)
  error = jnp.asarray(error)
  error = error.astype(ops.compute_dtype(error))
  return ops.at_least(2.0 * (1.0 - 2.0 * error), 0.0)
