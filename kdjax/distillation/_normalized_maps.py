"""Where a network looks: maps compared after they are brought to norm 1."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax.distillation._feature_pairs import as_pair
from kdjax.distillation._feature_pairs import example_mean
from kdjax.distillation._feature_pairs import unit
from kdjax.ops import safe_norm
from kdjax.ops._distances import absolute
from kdjax.ops._resizing import to_smaller
from kdjax.ops._validation import as_number
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import check_positive
from kdjax.ops._validation import validate


@validate
def at_loss(
  student_features: Float[Array, "batch height width student_channels"],
  teacher_features: Float[Array, "batch its_height its_width teacher_channels"],
  *,
  power: ArrayLike = 2.0,
  form: str = "mean",
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Attention transfer (AT): the student looks where the teacher looks.

  .. math::
    A(F) = \frac{\operatorname{vec}(\operatorname{mean}_c |F_c|^p)}
                {\lVert \cdot \rVert_2}, \qquad
    \ell = \operatorname{mean}_{hw} (A(F^S) - A(F^T))^2

  Args:
    student_features: activations of one stage. Channels may differ from the
      teacher's; of maps of two sizes the larger is averaged to the smaller.
    teacher_features: the teacher's activations; they receive no gradient.
    power: the exponent p > 0 of the channel statistics. May be traced.
    form: "mean" is the formula above; "norm" is the paper's, the Euclidean
      norm of A(F^S) - A(F^T), not squared.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 1000 times the mean over the batch,
    summed over the stages (both "mean", RepDistiller, and "norm", the paper,
    where it is beta / 2 = 500).

  Raises:
    ValueError: if batches differ, neither map is the smaller, a static power
      is not above 0 or the form is unknown.
    TypeError: if the features are not floating-point.

  Differs from the paper: the default takes the mean of the squares over the
  positions, not the norm, as the authors', RepDistiller's and mdistiller's
  code do, so that their weight carries over. The norm is some hundred times
  larger (torchdistill has both). The codes raise F itself to the power p, the
  paper its magnitude, as here: they differ only for an odd p on features that
  may be negative, and not after a ReLU.

  Examples:
    >>> maps = jnp.ones((2, 4, 4, 8))
    >>> at_loss(maps, maps)
    Array([0., 0.], dtype=float32)

  References:
    Zagoruyko and Komodakis, `Paying more attention to attention
    <https://arxiv.org/abs/1612.03928>`_, 2017.
  """
  check_positive("power", power)
  check_choice("form", form, ("mean", "norm"))
  student, teacher = to_smaller(
    *as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  power = as_number("power", power, student.dtype)
  difference = _attention_map(student, power) - _attention_map(teacher, power)
  if form == "norm":
    return safe_norm(difference)
  return example_mean(jnp.square(difference))


@validate
def factor_transfer_loss(
  student_features: Float[Array, "batch height width student_channels"],
  teacher_features: Float[Array, "batch its_height its_width teacher_channels"],
  *,
  form: str = "factors",
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Factor transfer (FT): mean absolute difference of normalised factors.

  .. math::
    \ell = \operatorname{mean} \left| \frac{F^S}{\lVert F^S \rVert_2}
                                    - \frac{F^T}{\lVert F^T \rVert_2} \right|

  A factor is what a paraphraser makes of the teacher's features and a
  translator of the student's, see :func:`kdjax.objectives.factor_transfer`.
  The norm is that of an example's whole factor.

  Args:
    student_features: the student's factor. Of maps of two sizes the larger is
      averaged to the smaller.
    teacher_features: the teacher's; it receives no gradient.
    form: "factors" is the paper's, above. "attention_maps" is RepDistiller's:
      F is first replaced by the mean over channels of its squares, so that
      channels may differ.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: times the mean over the batch, 200
    for "attention_maps" (RepDistiller) and 1000 for "factors" (torchdistill).

  Raises:
    ValueError: if batches differ, for "factors" the channels, neither map is
      the smaller, or the form is unknown.
    TypeError: if the features are not floating-point.

  Published codes disagree: RepDistiller compares attention maps of the
  factors, torchdistill and Knowledge-Distillation-Zoo the factors themselves.
  The latter is the paper's and the default.

  Examples:
    >>> factors = jnp.ones((1, 2, 2, 4))
    >>> factor_transfer_loss(factors, -factors)
    Array([0.5], dtype=float32)

  References:
    Kim, Park and Kwak, `Paraphrasing complex network: network compression via
    factor transfer <https://arxiv.org/abs/1802.04977>`_, 2018.
  """
  check_choice("form", form, ("factors", "attention_maps"))
  student, teacher = to_smaller(
    *as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  if form == "attention_maps":
    power = jnp.asarray(2.0, student.dtype)
    difference = _attention_map(student, power) - _attention_map(teacher, power)
  elif student.shape != teacher.shape:
    raise ValueError(
      f"factor_transfer_loss: teacher_features has shape {teacher.shape}; "
      f"expected {student.shape}, as in student_features."
    )
  else:
    batch = student.shape[0]
    difference = unit(student.reshape(batch, -1)) - unit(
      teacher.reshape(batch, -1)
    )
  return example_mean(absolute(difference))


@validate
def nst_loss(
  student_features: Float[Array, "batch height width student_channels"],
  teacher_features: Float[Array, "batch its_height its_width teacher_channels"],
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Neuron selectivity transfer (NST): the squared MMD between channels.

  .. math::
    \ell = \operatorname{mean}_{ij} k(t_i, t_j)
         + \operatorname{mean}_{ij} k(s_i, s_j)
         - 2 \operatorname{mean}_{ij} k(s_i, t_j), \qquad
    k(x, y) = (x \cdot y)^2

  where s_i and t_j are the channels of one example's maps, each over all
  positions and of norm 1; a dead channel stays 0 and gets no gradient.

  Args:
    student_features: activations of one stage. Channels may differ from the
      teacher's; of maps of two sizes the larger is averaged to the smaller.
    teacher_features: the teacher's activations; they receive no gradient.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight: 50 times the mean over the batch,
    summed over the stages (RepDistiller, mdistiller).

  Raises:
    ValueError: if batches differ or neither map is the smaller.
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
    unit(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    for x in to_smaller(*pair)
  )
  positions = student.shape[1]
  if positions <= max(student.shape[2], teacher.shape[2]):
    # The same sum the other way round: products of positions, the smaller
    # matrix, whose difference cancels before it is squared.
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
  """Returns products between positions, the mean over the channels."""
  products = jnp.einsum("bpi,bqi->bpq", channels, channels, precision="highest")
  return products / channels.shape[-1]


def _attention_map(
  maps: Float[Array, "batch height width channels"], power: Float[Array, ""]
) -> Float[Array, "batch positions"]:
  """The mean over channels of `|F|^p`, as a vector of norm 1."""
  sizes = jnp.where(maps < 0, -maps, maps)  # slope 1 at 0, as F itself
  # A map of norm 1 does not depend on the scale, which avoids overflow here.
  largest = jnp.max(sizes, (1, 2, 3), keepdims=True)
  sizes = sizes / jax.lax.stop_gradient(jnp.maximum(largest, 1.0))
  steep = (sizes == 0) & (power < 1)  # no finite gradient
  powers = jnp.where(steep, 0.0, jnp.power(jnp.where(steep, 1.0, sizes), power))
  return unit(jnp.mean(powers, -1).reshape(maps.shape[0], -1))
