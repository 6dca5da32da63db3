"""Consistency models: one step from any noise on a path to its data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.generation._diffusion import over_features

SOLVERS = ("heun", "euler")
WEIGHTINGS = ("uniform", "snr", "snr_plus_one", "snr_truncated")
NORMS = ("l2", "l1")
# `(noisy, sigma) -> x` of data with noise added, sigma `[batch]`.
NoiseFunction = Callable[[Array, Array], Array]


def karras_noise_levels(
  num_levels: int,
  *,
  smallest: float = 0.002,
  largest: float = 80.0,
  rho: float = 7.0,
) -> Float[Array, " levels"]:
  r"""Noise levels of Karras et al., from the largest to the smallest.

  .. math::
    \sigma_i = \Bigl(\sigma_{max}^{1/\rho} + \tfrac{i}{N - 1}
    (\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\Bigr)^\rho

  Args:
    num_levels: N, 2 or more; 18 in the authors' consistency distillation.
    smallest: the last level, above 0.
    largest: the first level.
    rho: the exponent; the larger, the more levels are small.

  Returns:
    `[num_levels]`.

  Raises:
    ValueError: if num_levels is below 2, or a number is not above 0.
    TypeError: if num_levels is no integer.

  Examples:
    >>> print(karras_noise_levels(3, smallest=1.0, largest=4.0, rho=1.0))
    [4.  2.5 1. ]

  References:
    Karras et al., `Elucidating the design space of diffusion-based generative
    models <https://arxiv.org/abs/2206.00364>`_, 2022.
  """
  ops.check_integer("karras_noise_levels: num_levels", num_levels, 2)
  for name, value in (
    ("smallest", smallest),
    ("largest", largest),
    ("rho", rho),
  ):
    ops.check_positive(f"karras_noise_levels: {name}", value)
  start, end = (x ** (1 / rho) for x in (largest, smallest))
  return (start + jnp.linspace(0, 1, num_levels) * (end - start)) ** rho


@ops.validate
def consistency_output(
  output: Float[Array, " batch *features"],
  noisy: Float[Array, " batch *features"],
  sigma: Float[Array, " batch"],
  *,
  data_std: ArrayLike = 0.5,
  smallest: ArrayLike = 0.002,
) -> Float[Array, " batch *features"]:
  r"""Consistency function: a network that is the identity at no noise.

  .. math::
    f(x, \sigma) = \frac{s^2}{(\sigma - \sigma_{min})^2 + s^2}\, x +
    \frac{(\sigma - \sigma_{min}) s}{\sqrt{\sigma^2 + s^2}}\,
    F\Bigl(\frac{x}{\sqrt{\sigma^2 + s^2}}, \sigma\Bigr)

  Args:
    output: `[batch, *features]`, the network's F.
    noisy: `[batch, *features]`, x: data plus noise of the deviation sigma.
    sigma: `[batch]`, the deviation of the noise.
    data_std: s, the deviation of the data. May be traced.
    smallest: sigma_min, at which f(x) = x; with 0 it is the denoiser of Karras
      et al. For s = 1 that is the network of a v prediction: its input is z =
      x / sqrt(sigma^2 + 1), its logarithm of the signal-to-noise ratio -2 log
      sigma, and F = -v. So a consistency model starts from the weights of such
      a diffusion model. May be traced.

  Returns:
    `[batch, *features]`.

  Raises:
    ValueError: if shapes do not fit, or a static data_std is not above 0.
    TypeError: if an array is not floating-point.

  Examples:
    >>> x = jnp.full((1, 2), 3.0)
    >>> print(consistency_output(jnp.ones((1, 2)), x, jnp.array([0.002])))
    [[3. 3.]]

  References:
    Song et al., `Consistency models <https://arxiv.org/abs/2303.01469>`_, 2023,
    and `their code <https://github.com/openai/consistency_models_cifar10>`_.
  """
  ops.check_positive("consistency_output: data_std", data_std)
  dtype = ops.compute_dtype(output)
  level = over_features(sigma.astype(dtype), output.ndim)
  scale = jnp.asarray(data_std, dtype)
  above = level - jnp.asarray(smallest, dtype)
  skip = jnp.square(scale) / (jnp.square(above) + jnp.square(scale))
  own = above * scale / jnp.sqrt(jnp.square(level) + jnp.square(scale))
  return skip * noisy.astype(dtype) + own * output.astype(dtype)


@ops.validate
def consistency_target(
  teacher: NoiseFunction,
  target: NoiseFunction,
  noisy: Float[Array, " batch *features"],
  sigma: Float[Array, " batch"],
  next_sigma: Float[Array, " batch"],
  *,
  solver: str = "heun",
) -> Float[Array, " batch *features"]:
  r"""Consistency distillation: the answer at the teacher's next point.

  .. math::
    \hat x' = \mathrm{ODE}(x, \sigma \to \sigma'), \qquad
    \tilde f = f^-(\hat x', \sigma'), \qquad
    \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma}

  Args:
    teacher: `(noisy, sigma) -> x`, the denoiser D of the teacher.
    target: `(noisy, sigma) -> x`, the consistency function of the target
      network, an average of the student's weights.
    noisy: `[batch, *features]`, x: data plus noise of the deviation sigma.
    sigma: `[batch]`, a noise level.
    next_sigma: `[batch]`, the next smaller one, above 0.
    solver: "heun" (two calls of the teacher) or "euler" (one).

  Returns:
    `[batch, *features]`, without a gradient.

  Raises:
    ValueError: if the solver is unknown.

  Examples:
    >>> answer = consistency_target(
    ...   lambda x, sigma: 0 * x, lambda x, sigma: x,
    ...   jnp.full((1, 2), 4.0), jnp.array([2.0]), jnp.array([1.0]),
    ... )
    >>> print(answer)
    [[2. 2.]]

  References:
    Song et al., `Consistency models <https://arxiv.org/abs/2303.01469>`_, 2023,
    and `their code <https://github.com/openai/consistency_models_cifar10>`_.
  """
  ops.check_choice("consistency_target: solver", solver, SOLVERS)
  noisy = jnp.asarray(noisy)
  dtype = ops.compute_dtype(noisy)
  x = noisy.astype(dtype)
  now, after = (jnp.asarray(s, dtype) for s in (sigma, next_sigma))

  def slope(x: Array, level: Array) -> Array:
    return (x - teacher(x, level)) / over_features(level, x.ndim)

  width = over_features(after - now, x.ndim)
  first = slope(x, now)
  moved = x + width * first
  if solver == "heun":
    moved = x + width * (first + slope(moved, after)) / 2
  return jax.lax.stop_gradient(target(moved, after).astype(dtype))


@ops.validate
def consistency_loss(
  student: Float[Array, " batch *features"],
  target: Float[Array, " batch *features"],
  sigma: Float[Array, " batch"],
  *,
  norm: str = "l2",
  weighting: str = "uniform",
) -> Float[Array, " batch"]:
  r"""Consistency loss: answers at two points of one path are the same.

  .. math:: \ell = w(\sigma) \operatorname{mean} |f - \tilde f|^p

  ================= =======================
  `uniform`         1
  `snr`             :math:`\sigma^{-2}`
  `snr_plus_one`    :math:`\sigma^{-2} + 1`
  `snr_truncated`   :math:`\max(\sigma^{-2}, 1)`
  ================= =======================

  Args:
    student: `[batch, *features]`, the student's `consistency_output` at the
      noise level sigma.
    target: `[batch, *features]`, of `consistency_target`; no gradient.
    sigma: `[batch]`, the noise level of the student's input.
    norm: "l2" for squares, "l1" for absolute values. The authors' best images
      are by LPIPS, the distance of a network's features.
    weighting: one of the weights above; uniform in the authors' runs.

  Returns:
    One value an example, a mean over features.

  Raises:
    ValueError: if shapes do not fit, or norm or weighting is unknown.
    TypeError: if an array is not floating-point.

  Examples:
    >>> x = jnp.full((1, 4), 2.0)
    >>> print(consistency_loss(x, 0 * x, jnp.ones(1)))
    [4.]

  References:
    Song et al., `Consistency models <https://arxiv.org/abs/2303.01469>`_, 2023,
    and `their code <https://github.com/openai/consistency_models_cifar10>`_.
  """
  ops.check_choice("consistency_loss: norm", norm, NORMS)
  ops.check_choice("consistency_loss: weighting", weighting, WEIGHTINGS)
  dtype = ops.compute_dtype(student)
  gap = student.astype(dtype) - jax.lax.stop_gradient(target).astype(dtype)
  errors = jnp.square(gap) if norm == "l2" else jnp.abs(gap)
  errors = jnp.mean(errors, tuple(range(1, errors.ndim)))
  ratio = jnp.square(1 / sigma.astype(dtype))
  weights = {
    "uniform": jnp.ones_like(ratio),
    "snr": ratio,
    "snr_plus_one": ratio + 1,
    "snr_truncated": ops.at_least(ratio, 1.0),
  }
  return ops.keep_nan(jax.lax.stop_gradient(weights[weighting]) * errors, sigma)


@ops.validate
def consistency_sample(
  key: Array,
  consistency: NoiseFunction,
  noise: Float[Array, " batch *features"],
  sigmas: Float[Array, " steps"],
  *,
  smallest: float = 0.002,
) -> Float[Array, " batch *features"]:
  r"""Samples of a consistency model: each further step adds noise and denoises.

  .. math::
    x \leftarrow f(\sigma_1 \epsilon, \sigma_1), \qquad
    x \leftarrow f(x + \sqrt{\sigma_k^2 - \sigma_{min}^2}\, \epsilon_k,
    \sigma_k)

  Args:
    key: of the noise of further steps.
    consistency: `(noisy, sigma) -> x`, the student.
    noise: `[batch, *features]`, of a standard normal distribution.
    sigmas: `[steps]`, falling noise levels, the largest one first. One level is
      one step.
    smallest: sigma_min of the student.

  Returns:
    `[batch, *features]`.

  Raises:
    ValueError: if sigmas has another number of axes than one, or no level.
    TypeError: if smallest is no number.

  Examples:
    >>> x = consistency_sample(
    ...   jax.random.key(0), lambda x, sigma: x / sigma[:, None],
    ...   jnp.ones((2, 3)), jnp.array([80.0]),
    ... )
    >>> print(x[0])
    [1. 1. 1.]

  References:
    Song et al., `Consistency models <https://arxiv.org/abs/2303.01469>`_, 2023,
    algorithm 1.
  """
  sigmas = jnp.asarray(sigmas)
  if sigmas.ndim != 1 or not sigmas.size:
    raise ValueError(
      f"consistency_sample: sigmas has shape {sigmas.shape}; expected [steps], "
      "one level or more."
    )
  noise = jnp.asarray(noise)
  dtype, batch = ops.compute_dtype(noise), noise.shape[0]
  floor = jnp.square(
    ops.as_number("consistency_sample: smallest", smallest, dtype)
  )
  start = sigmas[0].astype(dtype)
  first = consistency(start * noise.astype(dtype), jnp.full(batch, start))

  def body(x: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
    key, level = step
    added = jnp.sqrt(ops.at_least(jnp.square(level) - floor, 0))
    noisy = x + added * jax.random.normal(key, x.shape, dtype)
    return consistency(noisy, jnp.full(batch, level)).astype(dtype), None

  keys = jax.random.split(key, len(sigmas))[1:]
  rest = (keys, sigmas[1:].astype(dtype))
  return jax.lax.scan(body, first.astype(dtype), rest)[0]
