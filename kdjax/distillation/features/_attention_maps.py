"""Attention transfer (AT)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean


@ops.validate
def at_loss(
  student_features: Float[Array, "batch height width student_channels"],
  teacher_features: Float[Array, "batch its_height its_width teacher_channels"],
  *,
  power: ArrayLike = 2.0,
  form: str = "mean",
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Attention transfer (AT): equal maps of squared activations.

  .. math::
    A(F) = \frac{\operatorname{vec}(\operatorname{mean}_c |F_c|^p)}
                {\lVert \cdot \rVert_2}, \qquad
    \ell = \operatorname{mean}_{hw} (A(F^S) - A(F^T))^2

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: activations of one stage. The number of channels may
      differ from the teacher's. If the sizes differ, the larger map is
      average-pooled to the smaller.
    teacher_features: the teacher's activations; they receive no gradient.
    power: the exponent p > 0 of the channel statistics. May be traced.
    form: "mean" is the formula above; "norm" is the paper's formula, the
      Euclidean norm of A(F^S) - A(F^T), not squared.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1000 times the mean over the batch,
    summed over the stages (both "mean", RepDistiller, and "norm", the paper,
    where it is beta / 2 = 500).

  Raises:
    ValueError: if batch sizes differ, one map is higher and the other wider, a
      static power is not above 0 or the form is unknown.
    TypeError: if the features are not floating-point.

  The default takes the mean of the squares over the positions, as the code of
  the authors, RepDistiller and mdistiller does, so that their weight applies.
  The paper's norm is some hundred times larger (torchdistill has both).
  Published code raises F to the power p, the paper and this code |F|: the
  values differ only for an odd p and negative features.

  Examples:
    >>> maps = jnp.ones((2, 4, 4, 8))
    >>> at_loss(maps, maps)
    Array([0., 0.], dtype=float32)

  References:
    Zagoruyko and Komodakis, `Paying more attention to attention
    <https://arxiv.org/abs/1612.03928>`_, 2017.
  """
  ops.check_positive("power", power)
  ops.check_choice("form", form, ("mean", "norm"))
  student, teacher = ops.pool_to_smaller(
    *as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  power = ops.as_number("power", power, student.dtype)
  difference = attention_map(student, power) - attention_map(teacher, power)
  if form == "norm":
    return ops.safe_norm(difference)
  return example_mean(jnp.square(difference))


def attention_map(
  maps: Float[Array, "batch height width channels"], power: Float[Array, ""]
) -> Float[Array, "batch positions"]:
  """Returns the mean over channels of `|F|^p`, as a vector of norm 1."""
  sizes = jnp.where(maps < 0, -maps, maps)  # slope 1 at 0, as F itself
  # Dividing by the largest entry avoids overflow; it does not change a map of
  # norm 1.
  largest = jnp.max(sizes, (1, 2, 3), keepdims=True)
  sizes = sizes / jax.lax.stop_gradient(jnp.maximum(largest, 1.0))
  steep = (sizes == 0) & (power < 1)  # no finite gradient
  powers = jnp.where(steep, 0.0, jnp.power(jnp.where(steep, 1.0, sizes), power))
  return ops.normalize_as_torch(jnp.mean(powers, -1).reshape(maps.shape[0], -1))
