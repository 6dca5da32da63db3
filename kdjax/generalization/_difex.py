"""DIFEX: domain-invariant features, internally and mutually so."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.generalization._coral import coral
from kdjax.ops import check_choice
from kdjax.ops import compute_dtype
from kdjax.ops import masked_mean
from kdjax.ops import masked_rows
from kdjax.ops import safe_abs
from kdjax.ops import safe_norm
from kdjax.ops import validate

_FORMS = ("2-norm", "norm-2-norm", "norm-1-norm", "cos")


@validate
def fourier_phase(
  images: Float[Array, "*batch height width channels"],
) -> Float[Array, "*batch height width channels"]:
  r"""Fourier phase of images: what is left of them without their style.

  .. math::
    \phi_{uv} = \arg \sum_{hw} x_{hw}
      e^{-2 \pi i (u h / H + v w / W)} \in [-\pi, \pi]

  for each channel. DIFEX trains its teacher on it.

  Args:
    images: `[*batch, height, width, channels]`.

  Returns:
    Angles, of the same shape; float32 for half precision. The phase of a
    coefficient of 0 is 0, with gradient 0. At a negative real coefficient
    rounding decides between pi and -pi, here and in any FFT.

  Raises:
    ValueError: if there are fewer than three axes.

  Examples:
    >>> fourier_phase(jnp.array([1.0, 0.0]).reshape(2, 1, 1)).ravel()
    Array([0., 0.], dtype=float32)

  References:
    Lu et al., `Domain-invariant feature exploration for domain generalization
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """
  images = images.astype(compute_dtype(images))
  spectrum = jnp.fft.fft2(images, axes=(-3, -2))
  real, imaginary = spectrum.real, spectrum.imag
  zero = (real == 0) & (imaginary == 0)
  angle = jnp.arctan2(imaginary, jnp.where(zero, 1.0, real))
  return jnp.where(zero, 0.0, angle)


class Difex(NamedTuple):
  """The terms of DIFEX, each for its own weight.

  Attributes:
    distillation: the internal half equals the teacher's features.
    exploration: the two halves differ; negative.
    alignment: the mutual half is alike in all domains.

  References:
    Lu et al., `Domain-invariant feature exploration
    <https://arxiv.org/abs/2207.12020>`_, 2022.
  """

  distillation: Float[Array, ""]
  exploration: Float[Array, ""]
  alignment: Float[Array, ""]


@validate
def difex_loss(
  features: Float[Array, "domains batch dims"],
  teacher_features: Float[Array, "domains batch half"],
  *,
  form: str = "2-norm",
  where: Bool[Array, "domains batch"] | None = None,
  axis_name: str | None = None,
  stop_teacher_gradient: bool = True,
) -> Difex:
  r"""Domain-invariant feature exploration (DIFEX): its three terms.

  With f = (a, b) the halves of the bottleneck's features and t the teacher's:

  .. math::
    \ell_\text{distillation} = \operatorname{mean} (a - t)^2, \qquad
    \ell_\text{exploration} = -\operatorname{mean} (a - b)^2, \qquad
    \ell_\text{alignment} = \text{CORAL}(b)

  Args:
    features: `[domains, batch, 2 half]`, of the bottleneck.
    teacher_features: `[domains, batch, half]`, of a network trained on
      `fourier_phase`; they receive no gradient.
    form: of the exploration: "2-norm" as above; "norm-2-norm" the same of unit
      vectors; "norm-1-norm" the negative mean absolute difference of unit
      vectors; "cos" the mean cosine of a and b.
    where: `[domains, batch]`, which examples count.
    axis_name: the mapped axis that holds the rest of each domain's batch.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    Three scalars, to be weighed and added to the cross-entropy. Published
    weights, chosen for each target (PACS, "2-norm"): distillation 0.001 to 0.1,
    exploration 0 to 1, alignment 0 to 0.1. The "2-norm" exploration is not
    bounded below.

  Raises:
    ValueError: if `features` are not twice as wide as the teacher's or the form
      is unknown.

  As DeepDG, but: a zero vector has direction 0 (NaN there); the alignment,
  `coral` with scaling "mean", is 0 for a single domain (there, between
  the halves of its batch: reshape to two domains for that). "1-norm", which its
  command line offers, has no code there and is not offered here.

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
  check_choice("form", form, _FORMS)
  half = teacher_features.shape[-1]
  if features.shape[-1] != 2 * half:
    raise ValueError(
      f"difex_loss: features has width {features.shape[-1]}; expected "
      f"{2 * half}, twice that of teacher_features."
    )
  if stop_teacher_gradient:
    teacher_features = jax.lax.stop_gradient(teacher_features)
  rows, mask = masked_rows(features, where, axes=2)
  teacher, _ = masked_rows(teacher_features, where, axes=2)
  internal, mutual = rows[..., :half], rows[..., half:]

  def mean(values: Array) -> Float[Array, ""]:
    return masked_mean(values, mask > 0, axis_name=axis_name)

  if form == "cos":
    cosine = jnp.sum(_unit(internal, 1e-8) * _unit(mutual, 1e-8), -1)
    exploration = mean(cosine)
  else:
    if form != "2-norm":
      internal_side, mutual_side = _unit(internal), _unit(mutual)
    else:
      internal_side, mutual_side = internal, mutual
    gaps = internal_side - mutual_side
    size = safe_abs(gaps) if form == "norm-1-norm" else jnp.square(gaps)
    exploration = -mean(size)
  return Difex(
    mean(jnp.square(internal - teacher)),
    exploration,
    coral(mutual, where=where, axis_name=axis_name),
  )


def _unit(x: Array, least: float = 0.0) -> Array:
  """Returns directions; the zero vector is 0, with gradient 0."""
  norm = safe_norm(x, keepdims=True)
  zero = norm == 0
  norm = jnp.maximum(jnp.where(zero, 1.0, norm), least)
  return jnp.where(zero, 0.0, x) / norm
