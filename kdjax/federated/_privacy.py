"""The privacy that noise on clients' messages buys."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def privacy_epsilon(
  noise_multiplier: ArrayLike,
  *,
  rounds: ArrayLike,
  delta: ArrayLike = 1e-5,
) -> Float[Array, ""]:
  r"""Differential privacy: the budget epsilon of noised messages.

  .. math::
    \varepsilon = \rho + 2 \sqrt{\rho \log(1 / \delta)}, \qquad
    \rho = \frac{R}{2 \sigma^2}

  The messages of all rounds together are (epsilon, delta)-differentially
  private for one client more or less. If a client's data are replaced by other
  data, the sum moves by up to 2 C: the budget is that of sigma / 2. Each
  message is clipped to a norm C, and the sum of the messages of a round gets
  Gaussian noise of standard deviation sigma C, as in
  `private_consensus`. All clients take part in all rounds.

  Args:
    noise_multiplier: sigma > 0. May be traced.
    rounds: R > 0, the number of noised sums. May be traced.
    delta: in (0, 1), below 1 over the number of clients. May be traced.

  Returns:
    A scalar.

  Raises:
    ValueError: if a static number is out of range.

  It is the bound of zero-concentrated differential privacy, which is additive
  over rounds. Accountants that integrate the loss of privacy find somewhat
  smaller budgets.

  Examples:
    >>> print(f"{privacy_epsilon(1.0, rounds=1, delta=1e-5):.3f}")
    5.299
    >>> print(f"{privacy_epsilon(20.0, rounds=60, delta=1e-5):.3f}")
    1.933

  References:
    Bun and Steinke, `Concentrated differential privacy
    <https://arxiv.org/abs/1605.02065>`_, 2016, proposition 1.3.
  """
  ops.check_positive("privacy_epsilon: noise_multiplier", noise_multiplier)
  ops.check_positive("privacy_epsilon: rounds", rounds)
  ops.check_range("privacy_epsilon: delta", delta, 0.0, 1.0)
  dtype = jnp.result_type(float)
  sigma = ops.as_number("noise_multiplier", noise_multiplier, dtype)
  rho = ops.as_number("rounds", rounds, dtype) / (2 * jnp.square(sigma))
  surprise = -jnp.log(ops.as_number("delta", delta, dtype))
  return rho + 2 * jnp.sqrt(rho * surprise)
