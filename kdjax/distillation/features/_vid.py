"""Variational information distillation (VID)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def vid_loss(
  mean: Float[Array, "batch *positions channels"],
  variance: Float[Array, " channels"]
  | Float[Array, "1 1 1 channels"]
  | Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *positions channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Variational information distillation (VID): Gaussian likelihood.

  .. math::
    \ell = \frac{1}{2} \operatorname{mean}_{hwc} \left[
      \frac{(t - \mu)^2}{\sigma_c^2} + \log \sigma_c^2 \right]

  the negative log-likelihood of the teacher's features t under a Gaussian with
  the student's prediction as its mean, without the constant log(2 pi) / 2.

  Args:
    mean: mu, the student's prediction of the teacher's features.
    variance: sigma^2 > 0, one a channel (`[channels]` or `[1, 1, 1,
      channels]`), or one for each feature.
    teacher_features: the teacher's activations; they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch,
    summed over the stages (RepDistiller).

  Raises:
    ValueError: if shapes differ.
    TypeError: if the features are not floating-point.

  Published codes disagree on the variance. The paper, RepDistiller and
  `kdjax.methods.vid` train it, as the softplus of one number a channel plus
  1e-5; mdistiller leaves it out of the optimizer, so that it stays 5. As in the
  authors' code, the loss is the mean over positions and channels; the paper has
  the sum.

  Examples:
    >>> maps = jnp.zeros((1, 2, 2, 3))
    >>> vid_loss(maps, jnp.ones(3), maps + 2.0)
    Array([2.], dtype=float32)

  References:
    Ahn, Hu, Damianou, Lawrence and Dai, `Variational information distillation
    for knowledge transfer <https://arxiv.org/abs/1904.05835>`_, 2019.
  """
  mean, teacher = as_pair(mean, teacher_features, stop_teacher_gradient)
  variance = variance.astype(mean.dtype)
  variance = variance.reshape(
    (1,) * (mean.ndim - variance.ndim) + variance.shape
  )
  return example_mean(
    0.5 * (jnp.square(mean - teacher) / variance + jnp.log(variance))
  )
