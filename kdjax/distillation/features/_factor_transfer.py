"""Factor transfer (FT)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.distillation._inputs import as_pair, example_mean
from kdjax.distillation.features._attention_maps import attention_map


@ops.validate
def factor_transfer_loss(
  student_features: Float[Array, "batch height width student_channels"],
  teacher_features: Float[Array, "batch its_height its_width teacher_channels"],
  *,
  form: str = "factors",
  stop_teacher_gradient: bool = True,
) -> Float[Array, " batch"]:
  r"""Factor transfer (FT): mean absolute difference of normalized factors.

  .. math::
    \ell = \operatorname{mean} \left| \frac{F^S}{\lVert F^S \rVert_2}
                                    - \frac{F^T}{\lVert F^T \rVert_2} \right|

  A paraphraser maps the teacher's features to a factor F^T, a translator the
  student's features to F^S, see `kdjax.methods.factor_transfer`. The norm is
  over one example's whole factor.

  Maps have the channels last (NHWC). Transpose the maps of PyTorch or Equinox,
  `[batch, channels, height, width]`: the shapes cannot tell the layout.

  Args:
    student_features: the student's factor. If the sizes differ, the larger
      factor is average-pooled to the smaller.
    teacher_features: the teacher's factor; it receives no gradient.
    form: "factors" is the paper's formula, above. "attention_maps" is
      RepDistiller's: the mean over channels of the squares replaces F, so that
      the numbers of channels may differ.
    stop_teacher_gradient: False lets gradients reach the teacher.

  Returns:
    One value an example. Published weight of the mean over the batch: 200 for
    "attention_maps" (RepDistiller), 1000 for "factors" (torchdistill).

  Raises:
    ValueError: if the batch sizes differ, or the channels for "factors"; if one
      map is higher and the other wider; or if the form is unknown.
    TypeError: if the features are not floating-point.

  Published codes disagree: RepDistiller compares attention maps of the factors;
  the paper, torchdistill and Knowledge-Distillation-Zoo compare the factors,
  which is the default.

  Examples:
    >>> factors = jnp.ones((1, 2, 2, 4))
    >>> factor_transfer_loss(factors, -factors)
    Array([0.5], dtype=float32)

  References:
    Kim, Park and Kwak, `Paraphrasing complex network: network compression via
    factor transfer <https://arxiv.org/abs/1802.04977>`_, 2018.
  """
  ops.check_choice("form", form, ("factors", "attention_maps"))
  student, teacher = ops.pool_to_smaller(
    *as_pair(student_features, teacher_features, stop_teacher_gradient)
  )
  if form == "attention_maps":
    power = jnp.asarray(2.0, student.dtype)
    difference = attention_map(student, power) - attention_map(teacher, power)
  elif student.shape != teacher.shape:
    raise ValueError(
      f"factor_transfer_loss: teacher_features has shape {teacher.shape}; "
      f"expected {student.shape}, as in student_features."
    )
  else:
    batch = student.shape[0]
    difference = ops.normalize_as_torch(
      student.reshape(batch, -1)
    ) - ops.normalize_as_torch(teacher.reshape(batch, -1))
  return example_mean(ops.safe_abs(difference))
