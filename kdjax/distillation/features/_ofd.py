"""Overhaul of feature distillation (OFD)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair


@ops.validate
def ofd_loss(
  student_features: Float[Array, "batch height width channels"],
  teacher_features: Float[Array, "batch height width channels"],
  margin: Float[Array, " channels"] | Float[Array, "1 1 1 channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Overhaul of feature distillation (OFD): the partial L2 distance.

  .. math::
    \ell = \sum_{hwc} \begin{cases}
      0 & s \le \hat t \le 0 \\
      (s - \hat t)^2 & \text{otherwise} \end{cases}, \qquad
    \hat t = \max(t, m_c)

  Where the teacher's pre-activation is negative, a student's pre-activation
  below it adds 0. The margin is a lower bound of the teacher's values, so that
  the student does not imitate very negative ones.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: pre-activations, projected to the teacher's width, see
      `kdjax.methods.ofd`.
    teacher_features: the teacher's pre-activations; they receive no gradient.
    margin: the negative margin m_c of each channel, see `ofd_margin`; it
      receives no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight of the mean over the batch: 1e-3 on
    CIFAR-100, 1e-4 on ImageNet, times 2^(i - n + 1) for the i-th of n stages, i
    from 0.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the features are not floating-point.

  Examples:
    >>> student = jnp.array([-2.0, 1.0, 3.0]).reshape(1, 1, 1, 3)
    >>> teacher = jnp.array([-1.0, -5.0, 1.0]).reshape(1, 1, 1, 3)
    >>> ofd_loss(student, teacher, jnp.full(3, -2.0))
    Array([13.], dtype=float32)

  References:
    Heo et al., `A comprehensive overhaul of feature distillation
    <https://arxiv.org/abs/1904.01866>`_, 2019.
  """
  student, teacher = as_pair(
    student_features, teacher_features, stop_teacher_gradient
  )
  margin = jax.lax.stop_gradient(margin.astype(student.dtype))
  teacher = ops.at_least(teacher, margin.reshape(1, 1, 1, -1))
  inactive = (student <= teacher) & (teacher <= 0)
  values = jnp.where(inactive, 0.0, jnp.square(student - teacher))
  return jnp.sum(values, (1, 2, 3))


@ops.validate
def ofd_margin(
  bn_mean: Float[Array, "*channels"], bn_std: Float[Array, "*channels"]
) -> Float[Array, "*channels"]:
  r"""Margin of OFD: the mean of a channel's negative pre-activations.

  .. math::
    m = \mathbb E[x \mid x < 0] = \mu - \sigma
      \frac{\varphi(\mu / \sigma)}{\Phi(-\mu / \sigma)}, \qquad
    x \sim \mathcal N(\mu, \sigma^2)

  or -3 sigma where x is negative with a probability of at most 0.001.

  Args:
    bn_mean: mu, the bias of the batch normalization before the activation.
    bn_std: sigma, the size of its scale; the sign does not matter.

  Returns:
    The margins, in the shape of the arguments; min(mu, 0) where sigma is 0.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the arguments are not floating-point.

  Examples:
    >>> ofd_margin(jnp.array([0.0, 9.0]), jnp.array([1.0, 1.0]))
    Array([-0.7978846, -3.       ], dtype=float32)

  References:
    Heo et al., `A comprehensive overhaul of feature distillation
    <https://arxiv.org/abs/1904.01866>`_, 2019, and its `code
    <https://github.com/clovaai/overhaul-distillation>`_.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(bn_mean), ops.compute_dtype(bn_std)
  )
  mean, std = bn_mean.astype(dtype), jnp.abs(bn_std.astype(dtype))
  spread = std != 0
  ratio = mean / jnp.where(spread, std, 1.0)
  negative = jax.scipy.stats.norm.cdf(-ratio)
  often = ~(negative <= 0.001)  # True for NaN, which must reach the caller
  tail = jax.scipy.stats.norm.pdf(ratio) / jnp.where(often, negative, 1.0)
  margin = jnp.where(often, mean - std * tail, -3 * std)
  return jnp.where(spread, margin, ops.at_most(mean, 0.0))
