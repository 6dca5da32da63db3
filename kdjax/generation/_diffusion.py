"""Diffusion: noise schedules, predictions, deterministic steps, the loss."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops

PREDICTIONS = ("v", "x", "noise")
WEIGHTINGS = ("snr_truncated", "snr", "constant", "v")
Schedule = Callable[[Array], Array]
Denoiser = Callable[[Array, Array], Array]


def cosine_log_snr(
  time: ArrayLike, *, low: float = -20.0, high: float = 20.0
) -> Array:
  r"""Cosine schedule: the logarithm of the signal-to-noise ratio at a time.

  .. math::
    \lambda(u) = -2 \log \tan(a u + b), \quad b = \arctan e^{-high / 2}, \;
    a = \arctan e^{-low / 2} - b

  The signal has the factor :math:`\alpha = \sqrt{\sigma(\lambda)}` (a sigmoid)
  and the noise :math:`\sqrt{\sigma(-\lambda)}`, whose squares sum to 1.

  Args:
    time: u, from 0 (data) to 1 (noise), of any shape. May be traced.
    low: the logarithm at time 1.
    high: the logarithm at time 0.

  Returns:
    An array of the shape of `time`.

  Raises:
    ValueError: if low is not below high.

  Examples:
    >>> print(cosine_log_snr(jnp.array(0.5)).round(3) + 0.0)
    0.0

  References:
    Nichol and Dhariwal, `Improved denoising diffusion probabilistic models
    <https://arxiv.org/abs/2102.09672>`_, 2021; Salimans and Ho, `Progressive
    distillation for fast sampling of diffusion models
    <https://arxiv.org/abs/2202.00512>`_, 2022.
  """
  for name, value in (("low", low), ("high", high)):
    ops.check_range(f"cosine_log_snr: {name}", value, -np.inf, np.inf)
  if not low < high:
    raise ValueError(
      f"cosine_log_snr: low is {low} and high is {high}; expected low below "
      "high."
    )
  start = math.atan(math.exp(-0.5 * high))
  slope = math.atan(math.exp(-0.5 * low)) - start
  try:
    time = jnp.asarray(time, float)
  except (TypeError, ValueError):
    raise TypeError(
      f"cosine_log_snr: time is a {type(time).__name__}; expected numbers "
      "between 0 and 1."
    ) from None
  return -2.0 * jnp.log(jnp.tan(slope * time + start))


@ops.validate
def diffuse(
  x: Float[Array, " batch *features"],
  noise: Float[Array, " batch *features"],
  log_snr: Float[Array, " batch"],
) -> Float[Array, " batch *features"]:
  r"""Diffusion: data with noise, of a signal-to-noise ratio for each example.

  .. math:: z = \sqrt{\sigma(\lambda)}\, x + \sqrt{\sigma(-\lambda)}\, \epsilon

  Args:
    x: `[batch, *features]`, the data.
    noise: `[batch, *features]`, of a standard normal distribution.
    log_snr: `[batch]`, lambda.

  Returns:
    `[batch, *features]`, of variance 1 if the data have it.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array is not floating-point.

  Examples:
    >>> x, noise = jnp.ones((1, 2)), jnp.zeros((1, 2))
    >>> print(diffuse(x, noise, jnp.zeros(1)).round(4))
    [[0.7071 0.7071]]

  References:
    Kingma et al., `Variational diffusion models
    <https://arxiv.org/abs/2107.00630>`_, 2021.
  """
  dtype = ops.compute_dtype(x)
  signal, deviation = _factors(log_snr, x.ndim, dtype)
  return signal * x.astype(dtype) + deviation * noise.astype(dtype)


@ops.validate
def denoised(
  output: Float[Array, " batch *features"],
  noisy: Float[Array, " batch *features"],
  log_snr: Float[Array, " batch"],
  *,
  prediction: str = "v",
) -> Float[Array, " batch *features"]:
  r"""Denoised data: what a network's output says about the data.

  - `v`: :math:`x = \alpha z - \sigma v`, since
    :math:`v = \alpha \epsilon - \sigma x`;
  - `x`: the output itself;
  - `noise`: :math:`x = (z - \sigma \epsilon) / \alpha`.

  Args:
    output: `[batch, *features]`, of the network.
    noisy: `[batch, *features]`, z.
    log_snr: `[batch]`, the logarithm of the signal-to-noise ratio of z.
    prediction: what the network predicts, "v", "x" or "noise". A network that
      is to sample in few steps predicts v or x: at a signal of 0 the noise
      says nothing about the data.

  Returns:
    `[batch, *features]`, x.

  Raises:
    ValueError: if shapes do not fit or the prediction is unknown.
    TypeError: if an array is not floating-point.

  Examples:
    >>> z = jnp.ones((1, 2))
    >>> print(denoised(jnp.zeros((1, 2)), z, jnp.zeros(1)).round(4))
    [[0.7071 0.7071]]

  References:
    Salimans and Ho, `Progressive distillation for fast sampling of diffusion
    models <https://arxiv.org/abs/2202.00512>`_, 2022.
  """
  ops.check_choice("denoised: prediction", prediction, PREDICTIONS)
  dtype = ops.compute_dtype(output)
  output, noisy = output.astype(dtype), noisy.astype(dtype)
  signal, deviation = _factors(log_snr, output.ndim, dtype)
  if prediction == "v":
    return signal * noisy - deviation * output
  if prediction == "noise":
    return (noisy - deviation * output) / signal
  return output


@ops.validate
def ddim_step(
  x: Float[Array, " batch *features"],
  noisy: Float[Array, " batch *features"],
  log_snr: Float[Array, " batch"],
  next_log_snr: Float[Array, " batch"],
) -> Float[Array, " batch *features"]:
  r"""DDIM step: to less noise along the straight line of one prediction.

  .. math::
    z' = \alpha' x + \sigma' \epsilon, \quad \epsilon = (z - \alpha x) / \sigma

  Args:
    x: `[batch, *features]`, the denoised data.
    noisy: `[batch, *features]`, z.
    log_snr: `[batch]`, the logarithm of the signal-to-noise ratio of z.
    next_log_snr: `[batch]`, that of z'.

  Returns:
    `[batch, *features]`, z'.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array is not floating-point.

  Examples:
    >>> x, z = jnp.ones((1, 2)), jnp.full((1, 2), 3.0)
    >>> print(ddim_step(x, z, jnp.zeros(1), jnp.zeros(1)))
    [[3. 3.]]

  References:
    Song, Meng and Ermon, `Denoising diffusion implicit models
    <https://arxiv.org/abs/2010.02502>`_, 2021.
  """
  dtype = ops.compute_dtype(x)
  x, noisy = x.astype(dtype), noisy.astype(dtype)
  signal, _ = _factors(log_snr, x.ndim, dtype)
  next_signal, _ = _factors(next_log_snr, x.ndim, dtype)
  ratio = deviation_ratio(log_snr, next_log_snr, x.ndim, dtype)
  return next_signal * x + ratio * (noisy - signal * x)


@ops.validate
def ddim_sample(
  denoise: Denoiser,
  noise: Float[Array, " batch *features"],
  *,
  num_steps: ArrayLike,
  schedule: Schedule = cosine_log_snr,
) -> Float[Array, " batch *features"]:
  """DDIM: samples in a few deterministic steps.

  Args:
    denoise: `(noisy, log_snr) -> x`, the network, such as a call of
      `denoised`; `log_snr` is `[batch]`.
    noise: `[batch, *features]`, of a standard normal distribution.
    num_steps: the number of calls of the network, at the times 1,
      1 - 1 / num_steps and so on. May be traced: one program for all numbers.
    schedule: time -> logarithm of the signal-to-noise ratio.

  Returns:
    `[batch, *features]`: the denoised data of the last step, to which no noise
    is added any more.

  Raises:
    ValueError: if num_steps is below 1.
    TypeError: if it is no integer.

  Examples:
    >>> samples = ddim_sample(
    ...   lambda z, log_snr: 0 * z, jnp.ones((2, 3)), num_steps=4
    ... )
    >>> samples.shape, float(samples.max())
    ((2, 3), 0.0)

  References:
    Song, Meng and Ermon, `Denoising diffusion implicit models
    <https://arxiv.org/abs/2010.02502>`_, 2021; Salimans and Ho, `Progressive
    distillation for fast sampling of diffusion models
    <https://arxiv.org/abs/2202.00512>`_, 2022.
  """
  if not isinstance(num_steps, jax.Array):
    ops.check_integer("ddim_sample: num_steps", num_steps, 1)
  noise = jnp.asarray(noise)
  dtype, batch = ops.compute_dtype(noise), noise.shape[0]

  def level(step: Any) -> Array:
    return jnp.full(batch, schedule(step / num_steps), dtype)

  def body(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    noisy, _ = carry
    now, after = level(num_steps - step), level(num_steps - step - 1)
    x = denoise(noisy, now).astype(dtype)
    return ddim_step(x, noisy, now, after), x

  start = noise.astype(dtype)
  _, x = jax.lax.fori_loop(0, num_steps, body, (start, jnp.zeros_like(start)))
  return x


@ops.validate
def diffusion_loss(
  prediction: Float[Array, " batch *features"],
  target: Float[Array, " batch *features"],
  log_snr: Float[Array, " batch"],
  *,
  weighting: str = "snr_truncated",
) -> Float[Array, " batch"]:
  r"""Diffusion loss: squared error of denoised data, weighted by noise.

  .. math:: \ell = w(\lambda) \operatorname{mean} (x - \hat x)^2

  - `snr_truncated`: :math:`\max(e^\lambda, 1)`, the larger one of the errors of
    the data and of the noise;
  - `snr`: :math:`e^\lambda`, the error of the noise;
  - `constant`: 1, the error of the data;
  - `v`: :math:`e^\lambda + 1`, the error of v.

  Args:
    prediction: `[batch, *features]`, the denoised data of the network.
    target: `[batch, *features]`, the data, or what a teacher says of them
      (`progressive_distillation_target`); no gradient.
    log_snr: `[batch]`, lambda.
    weighting: one of the weights above.

  Returns:
    One value an example, a mean over features.

  Raises:
    ValueError: if shapes do not fit or the weighting is unknown.
    TypeError: if an array is not floating-point.

  Examples:
    >>> x = jnp.ones((1, 4))
    >>> print(diffusion_loss(x, 0 * x, jnp.array([jnp.log(3.0)])).round(4))
    [3.]

  References:
    Salimans and Ho, `Progressive distillation for fast sampling of diffusion
    models <https://arxiv.org/abs/2202.00512>`_, 2022, and its code in
    `google-research <https://github.com/google-research/google-research>`_,
    diffusion_distillation/dpm.py.
  """
  ops.check_choice("diffusion_loss: weighting", weighting, WEIGHTINGS)
  dtype = ops.compute_dtype(prediction)
  target = jax.lax.stop_gradient(target).astype(dtype)
  errors = jnp.square(prediction.astype(dtype) - target)
  errors = jnp.mean(errors, tuple(range(1, errors.ndim)))
  ratio = jnp.exp(log_snr.astype(dtype))
  weights = {
    "snr_truncated": ops.at_least(ratio, 1.0),
    "snr": ratio,
    "constant": jnp.ones_like(ratio),
    "v": ratio + 1.0,
  }
  return jax.lax.stop_gradient(weights[weighting]) * errors


def deviation_ratio(
  log_snr: Array, next_log_snr: Array, ndim: int, dtype: jnp.dtype
) -> Array:
  """The deviation of the noise after a step over that before it."""
  now, after = (
    jax.nn.softplus(x.astype(dtype)) for x in (log_snr, next_log_snr)
  )
  return over_features(jnp.exp(0.5 * (now - after)), ndim)


def over_features(values: Array, ndim: int) -> Array:
  """One value an example, as an array of so many axes."""
  return values.reshape(-1, *(1,) * (ndim - 1))


def _factors(
  log_snr: Array, ndim: int, dtype: jnp.dtype
) -> tuple[Array, Array]:
  """The factors of the signal and of the noise."""
  level = log_snr.astype(dtype)
  return (
    over_features(jnp.sqrt(jax.nn.sigmoid(level)), ndim),
    over_features(jnp.sqrt(jax.nn.sigmoid(-level)), ndim),
  )
