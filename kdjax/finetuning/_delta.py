"""DELTA: penalizes changes of pretrained feature maps."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def delta_loss(
  student_features: Float[Array, "batch *positions channels"],
  teacher_features: Float[Array, "batch *positions channels"],
  *,
  channel_attention: Float[Array, " channels"] | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Deep learning transfer with attention (DELTA): a penalty on feature maps.

  .. math::
    \ell = \frac12 \sum_{hwc} (F_{hwc} - F^0_{hwc})^2, \qquad
    \ell_\text{attention} = \frac{C}{2 H W}
      \sum_c a_c \sum_{hw} (F_{hwc} - F^0_{hwc})^2

  The behavioral penalty has equal weights for channels. The second penalty
  weighs channels by their importance a for the target task. Add the penalties
  of several layers.

  Args:
    student_features: `[batch, ..., channels]`, of the fine-tuned network.
    teacher_features: the same layer of the frozen pretrained network; no
      gradient.
    channel_attention: `[channels]`, from `delta_channel_attention`; no
      gradient. None for the behavioral penalty.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight (TLlib): 0.01 times the sum over a
    batch of 48 and over the last layers of the four stages, that is 0.48 times
    the mean over the batch; L2 of weight 0.01 on the new head.

  Raises:
    ValueError: if shapes differ.
    TypeError: if an array is not floating-point.

  The factors 1/2 and C / (H W) are those of TLlib; the paper has neither.

  Examples:
    >>> maps = jnp.ones((1, 2, 2, 3))
    >>> delta_loss(maps, 0.0 * maps)
    Array([6.], dtype=float32)
    >>> weights = jnp.array([1.0, 0.0, 0.0])
    >>> delta_loss(maps, 0.0 * maps, channel_attention=weights)
    Array([1.5], dtype=float32)

  References:
    Li et al., `DELTA: deep learning transfer using feature map with attention
    for convolutional networks <https://arxiv.org/abs/1901.09229>`_, 2019.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(student_features), ops.compute_dtype(teacher_features)
  )
  student, teacher = (
    x.astype(dtype).reshape(x.shape[0], -1, x.shape[-1])
    for x in (student_features, teacher_features)
  )
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  squares = jnp.sum(jnp.square(student - teacher), 1)
  if channel_attention is not None:
    attention = jax.lax.stop_gradient(channel_attention.astype(dtype))
    squares *= attention[None] * (student.shape[2] / student.shape[1])
  return 0.5 * jnp.sum(squares, 1)


@ops.validate
def delta_channel_attention(
  loss_increases: Float[Array, " channels"], *, temperature: ArrayLike = 5.0
) -> Float[Array, " channels"]:
  r"""DELTA's channel attention: the importance of channels for the target task.

  .. math::
    a = \operatorname{softmax}\Bigl(\frac{1}{T}
      \frac{\Delta - \operatorname{mean} \Delta}{\operatorname{std} \Delta}
      \Bigr)

  Args:
    loss_increases: `[channels]`, the increase of the target loss if the filter
      of a channel is set to 0, in the pretrained network with a head fitted to
      the target task; the mean over batches.
    temperature: T > 0. May be traced.

  Returns:
    Attention `[channels]`, of sum 1, without gradient; uniform if all increases
    are equal.

  Raises:
    ValueError: if a static temperature is not above 0.
    TypeError: if the increases are not floating-point.

  Examples:
    >>> print(delta_channel_attention(jnp.array([1.0, 1.0])))
    [0.5 0.5]

  References:
    Li et al., `DELTA: deep learning transfer using feature map with attention
    for convolutional networks <https://arxiv.org/abs/1901.09229>`_, 2019, and
    TLlib's fine-tuning example, whose standard deviation is over all channels.
  """
  ops.check_positive("temperature", temperature)
  increases = jax.lax.stop_gradient(
    loss_increases.astype(ops.compute_dtype(loss_increases))
  )
  scale = ops.as_number("temperature", temperature, increases.dtype)
  centered = increases - jnp.mean(increases)
  deviation = jnp.sqrt(jnp.mean(jnp.square(centered)))
  constant = deviation == 0
  return jax.nn.softmax(
    centered / (jnp.where(constant, 1.0, deviation) * scale)
  )
