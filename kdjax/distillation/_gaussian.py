"""The teacher's features as a Gaussian that the student predicts."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.distillation._feature_pairs import as_pair
from kdjax.distillation._feature_pairs import example_mean
from kdjax.ops._softmax import compute_dtype
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
def vid_loss(
  mean: Float[Array, "batch *positions channels"],
  variance: Float[Array, " channels"]
  | Float[Array, "1 1 1 channels"]
  | Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *positions channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Variational information distillation (VID): the teacher's likelihood.

  .. math::
    \ell = \frac{1}{2} \operatorname{mean}_{hwc} \left[
      \frac{(t - \mu)^2}{\sigma_c^2} + \log \sigma_c^2 \right]

  the negative log-likelihood of the teacher's features t under a Gaussian
  around the student's prediction, without the constant log(2 pi) / 2.

  Args:
    mean: the mean that the student predicts, mu.
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

  Published codes disagree on sigma: the paper and RepDistiller train it, the
  softplus of one number a channel plus 1e-5, and so does
  :func:`kdjax.objectives.vid`; mdistiller keeps it out of the optimizer, so
  that it stays 5. The mean over positions and channels is the authors' code;
  the paper sums over them.

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


@validate
def pad_l2_loss(
  student_embeddings: Float[Array, "batch width"],
  teacher_embeddings: Float[Array, "batch width"],
  log_variance: Float[Array, "batch width"],
  *,
  eps: ArrayLike = 1e-6,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Prime-aware adaptive distillation (PAD) with the L2 loss.

  .. math::
    \ell = \operatorname{mean}_d \left[
      \frac{(t_d - s_d)^2}{\epsilon + e^{v_d}} + v_d \right]

  Examples that the student thinks it can follow (a low log-variance v) weigh
  more.

  Args:
    student_embeddings: the student's.
    teacher_embeddings: the teacher's; they receive no gradient.
    log_variance: v, predicted from the student's embedding.
    eps: added to the variance. May be traced.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch
    (torchdistill), in a second stage after training with :func:`hint_loss` of
    the embeddings (CSE-L2).

  Raises:
    ValueError: if the shapes differ or a static `eps` is not above 0.
    TypeError: if an argument is not floating-point.

  Examples:
    >>> zeros = jnp.zeros((1, 4))
    >>> pad_l2_loss(zeros, zeros + 2.0, zeros).round(4)
    Array([4.], dtype=float32)

  References:
    Zhang et al., `Prime-aware adaptive distillation
    <https://arxiv.org/abs/2008.01458>`_, 2020.
  """
  check_positive("eps", eps)
  student, teacher = as_pair(
    student_embeddings, teacher_embeddings, stop_teacher_gradient
  )
  log_variance = log_variance.astype(compute_dtype(log_variance))
  eps = as_number("eps", eps, student.dtype)
  # 1 / (eps + exp v) without an exp that overflows
  precision = jnp.exp(-jnp.logaddexp(jnp.log(eps), log_variance))
  return example_mean(jnp.square(teacher - student) * precision + log_variance)
