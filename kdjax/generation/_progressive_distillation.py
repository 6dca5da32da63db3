"""Progressive distillation: one step of a student for two of its teacher."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops
from kdjax.generation._diffusion import (
  Denoiser,
  Schedule,
  cosine_log_snr,
  ddim_step,
  deviation_ratio,
  over_features,
)


@ops.validate
def progressive_distillation_target(
  teacher: Denoiser,
  noisy: Float[Array, " batch *features"],
  step: Int[Array, " batch"],
  *,
  num_steps: ArrayLike,
  schedule: Schedule = cosine_log_snr,
) -> Float[Array, " batch *features"]:
  r"""Progressive distillation: the data that stand for two teacher steps.

  .. math::
    z'' &= \text{two DDIM steps of the teacher from } z \\
    \tilde x &= \frac{z'' - (\sigma'' / \sigma) z}{\alpha'' - (\sigma'' /
    \sigma) \alpha}

  A DDIM step of the student that denoises z to this target goes where the
  teacher goes in two steps. In the last step, to time 0, the target is the
  teacher's own denoised data of its second step. Each phase of the training
  halves the number of steps; its student starts from its teacher's weights, and
  the optimizer starts anew.

  Args:
    teacher: `(noisy, log_snr) -> x`, which samples in 2 num_steps steps.
    noisy: `[batch, *features]`, z at the time (step + 1) / num_steps.
    step: `[batch]` integers from 0 to num_steps - 1.
    num_steps: of the student. May be traced: one program for all phases.
    schedule: time -> logarithm of the signal-to-noise ratio.

  Returns:
    `[batch, *features]`, without a gradient; the target of
    `diffusion_loss(..., weighting="snr_truncated")`, the authors' weight.

  Raises:
    ValueError: if num_steps is below 1.
    TypeError: if it is no integer.

  Examples:
    >>> target = progressive_distillation_target(
    ...   lambda z, log_snr: 0 * z + 0.5,
    ...   jnp.ones((2, 3)), jnp.array([0, 1]), num_steps=2,
    ... )
    >>> print(target.round(4)[:, 0])
    [0.5 0.5]

  References:
    Salimans and Ho, `Progressive distillation for fast sampling of diffusion
    models <https://arxiv.org/abs/2202.00512>`_, 2022, and its code in
    `google-research <https://github.com/google-research/google-research>`_,
    diffusion_distillation/dpm.py.
  """
  if not isinstance(num_steps, jax.Array):
    ops.check_integer(
      "progressive_distillation_target: num_steps", num_steps, 1
    )
  noisy, step = jnp.asarray(noisy), jnp.asarray(step)
  dtype = ops.compute_dtype(noisy)
  start = noisy.astype(dtype)
  time = (step + 1).astype(dtype)
  levels = [
    schedule((time - part) / num_steps).astype(dtype) for part in (0, 0.5, 1)
  ]
  middle = ddim_step(
    teacher(start, levels[0]).astype(dtype), start, levels[0], levels[1]
  )
  x = teacher(middle, levels[1]).astype(dtype)
  end = ddim_step(x, middle, levels[1], levels[2])
  ratio = deviation_ratio(levels[0], levels[2], start.ndim, dtype)
  before, after = (
    over_features(jnp.sqrt(jax.nn.sigmoid(levels[i])), start.ndim)
    for i in (0, 2)
  )
  target = (end - ratio * start) / (after - ratio * before)
  target = jnp.where(over_features(step == 0, start.ndim), x, target)
  return jax.lax.stop_gradient(target)
