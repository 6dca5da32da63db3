"""Neuron selectivity transfer (NST)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def nst_loss(
  student_features: Float[Array, "batch height width student_channels"],
  teacher_features: Float[Array, "batch its_height its_width teacher_channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Neuron selectivity transfer (NST): squared MMD between channels.

  .. math::
    \ell = \operatorname{mean}_{ij} k(t_i, t_j)
         + \operatorname{mean}_{ij} k(s_i, s_j)
         - 2 \operatorname{mean}_{ij} k(s_i, t_j), \qquad
    k(x, y) = (x \cdot y)^2

  where s_i and t_j are the channels of one example's maps, as vectors over all
  positions divided by their norm; a channel of zeros stays 0 and gets no
  gradient.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: activations of one stage. The number of channels may
      differ from the teacher's. If the sizes differ, the larger map is
      average-pooled to the smaller.
    teacher_features: the teacher's activations; they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 50 times the mean over the batch,
    summed over the stages (RepDistiller, mdistiller).

  Raises:
    ValueError: if the batch sizes differ or one map is higher and the other
      wider.
    TypeError: if the features are not floating-point.

  Examples:
    >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)  # four channels, orthogonal
    >>> nst_loss(maps, maps[..., :1])
    Array([0.75], dtype=float32)

  References:
    Huang and Wang, `Like what you like: knowledge distill via neuron
    selectivity transfer <https://arxiv.org/abs/1707.01219>`_, 2017, with its
    polynomial kernel.
  """
  pair = as_pair(student_features, teacher_features, stop_teacher_gradient)
  student, teacher = (
    ops.normalize_as_torch(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    for x in ops.pool_to_smaller(*pair)
  )
  positions = student.shape[1]
  if positions <= max(student.shape[2], teacher.shape[2]):
    # The products between positions give the same sum from a smaller matrix,
    # and student and teacher cancel before the square.
    gap = _position_products(student) - _position_products(teacher)
    return jnp.sum(jnp.square(gap), (1, 2))

  def mean_kernel(a: Array, b: Array) -> Array:
    products = jnp.einsum("bpi,bpj->bij", a, b, precision="highest")
    return example_mean(jnp.square(products))

  within = mean_kernel(teacher, teacher) + mean_kernel(student, student)
  return within - 2 * mean_kernel(student, teacher)


def _position_products(
  channels: Float[Array, "batch positions channels"],
) -> Float[Array, "batch positions positions"]:
  """Returns the products between positions, averaged over the channels."""
  products = jnp.einsum("bpi,bqi->bpq", channels, channels, precision="highest")
  return products / channels.shape[-1]
