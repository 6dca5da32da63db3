"""Domain-invariant feature exploration (DIFEX)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.generalization._coral import coral

_FORMS = ("2-norm", "norm-2-norm", "norm-1-norm", "cos")


@ops.validate
def fourier_phase(
  images: Float[Array, "*batch height width channels"],
) -> Float[Array, "*batch height width channels"]:
  r"""Fourier phase of images: removes the style, which is in the amplitudes.

  .. math::
    \phi_{uv} = \arg \sum_{hw} x_{hw}
      e^{-2 \pi i (u h / H + v w / W)} \in [-\pi, \pi]

  for each channel. Domain-invariant feature exploration (DIFEX) trains its
  teacher on the phase.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    images: `[*batch, height, width, channels]`.

  Returns:
    Angles of the same shape; float32 for half precision. The phase of a zero
    coefficient is 0, with gradient 0. For a negative real coefficient, rounding
    decides between pi and -pi, as with any FFT.

  Raises:
    ValueError: if there are fewer than three axes.

  Examples:
    >>> fourier_phase(jnp.array([1.0, 0.0]).reshape(2, 1, 1)).ravel()
    Array([0., 0.], dtype=float32)

  References:
    Lu et al., `Domain-invariant feature exploration for domain generalization
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """
  images = images.astype(ops.compute_dtype(images))
  spectrum = jnp.fft.fft2(images, axes=(-3, -2))
  real, imaginary = spectrum.real, spectrum.imag
  zero = (real == 0) & (imaginary == 0)
  angle = jnp.arctan2(imaginary, jnp.where(zero, 1.0, real))
  return jnp.where(zero, 0.0, angle)


@ops.exportable
class Difex(NamedTuple):
  """The terms of `difex_loss`, each to be multiplied by its own weight.

  Attributes:
    distillation: compares the internal half with the teacher's features.
    exploration: a negative distance: it drives the two halves apart.
    alignment: aligns the mutual half across domains.

  References:
    Lu et al., `Domain-invariant feature exploration
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """

  distillation: Float[Array, ""]
  exploration: Float[Array, ""]
  alignment: Float[Array, ""]


@ops.validate
def difex_loss(
  student_features: Float[Array, "domains batch dims"],
  teacher_features: Float[Array, "domains batch half"],
  *,
  form: str = "2-norm",
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Difex:
  r"""Domain-invariant feature exploration (DIFEX): computes its three terms.

  The features of the student's bottleneck have two halves, f = (a, b): the
  internal half a and the mutual half b. With the teacher's features t:

  .. math::
    \ell_\text{distillation} = \operatorname{mean} (a - t)^2, \qquad
    \ell_\text{exploration} = -\operatorname{mean} (a - b)^2, \qquad
    \ell_\text{alignment} = \text{CORAL}(b)

  Args:
    student_features: `[domains, batch, 2 half]`, of the bottleneck.
    teacher_features: `[domains, batch, half]`, of a network trained on
      `fourier_phase`; they receive no gradient.
    form: the form of the exploration. "2-norm": as above. "norm-2-norm": as
      above, for unit vectors. "norm-1-norm": the negative mean absolute
      difference of unit vectors. "cos": the mean cosine of a and b.
    where: `[domains, batch]`, True for the examples to use.
    axis_name: the mapped axis that holds the rest of each domain's batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    A `Difex` of three scalars. Multiply them by their weights and add them to
    the cross-entropy. Published weights, tuned for each target domain (PACS,
    "2-norm"): distillation 0.001 to 0.1, exploration 0 to 1, alignment 0 to
    0.1. The "2-norm" exploration has no lower bound.

  Raises:
    ValueError: if `student_features` are not twice as wide as
      `teacher_features`, or the form is unknown.

  It follows DeepDG with three differences. The unit vector of a zero vector is
  0 (DeepDG: NaN). The alignment, `coral` with scaling "mean", is 0 for a single
  domain; DeepDG aligns the two halves of its batch, for which one reshapes the
  batch to two domains. DeepDG's command line accepts a form "1-norm" that its
  code does not implement; here it is an error.

  Examples:
    >>> features = jnp.array([[[1.0, 3.0]], [[2.0, 3.0]]])
    >>> difex_loss(features, jnp.array([[[1.0]], [[1.0]]]))._asdict()
    {'distillation': Array(0.5, dtype=float32),
     'exploration': Array(-2.5, dtype=float32),
     'alignment': Array(0., dtype=float32)}

  References:
    Lu et al., `Domain-invariant feature exploration for domain generalization
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """
  ops.check_choice("form", form, _FORMS)
  half = teacher_features.shape[-1]
  if student_features.shape[-1] != 2 * half:
    raise ValueError(
      f"difex_loss: student_features has width {student_features.shape[-1]}; "
      f"expected {2 * half}, twice the width of teacher_features."
    )
  if stop_teacher_gradient:
    teacher_features = jax.lax.stop_gradient(teacher_features)
  student, mask = ops.masked_rows(student_features, where, axes=2)
  teacher, _ = ops.masked_rows(teacher_features, where, axes=2)
  internal, mutual = student[..., :half], student[..., half:]

  def mean(values: Array) -> Float[Array, ""]:
    return ops.masked_mean(values, mask > 0, axis_name=axis_name)

  if form == "cos":
    cosine = jnp.sum(_unit(internal, 1e-8) * _unit(mutual, 1e-8), -1)
    exploration = mean(cosine)
  else:
    if form != "2-norm":
      internal_side, mutual_side = (
        _unit(internal),
        _unit(mutual),
      )
    else:
      internal_side, mutual_side = internal, mutual
    gaps = internal_side - mutual_side
    size = ops.safe_abs(gaps) if form == "norm-1-norm" else jnp.square(gaps)
    exploration = -mean(size)
  return Difex(
    mean(jnp.square(internal - teacher)),
    exploration,
    coral(mutual, where=where, axis_name=axis_name),
  )


def _unit(x: Array, smallest_norm: float = 0.0) -> Array:
  """Returns unit vectors; 0, with gradient 0, for the zero vector."""
  norm = ops.safe_norm(x, keepdims=True)
  zero = norm == 0
  norm = ops.at_least(jnp.where(zero, 1.0, norm), smallest_norm)
  return jnp.where(zero, 0.0, x) / norm
