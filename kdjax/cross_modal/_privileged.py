"""Generalized distillation: a teacher that sees privileged information."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdjax import ops


@ops.validate
def generalized_distillation_loss(
  student_logits: Float[Array, "*batch classes"],
  teacher_logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  *,
  temperature: ArrayLike = 1.0,
  imitation: ArrayLike = 0.5,
) -> Float[Array, "*batch"]:
  r"""Generalized distillation: labels, and a teacher of another modality.

  .. math::
    \ell = (1 - \lambda) H(y, q) + \lambda H(p_T, q), \quad
    p_T = \mathrm{softmax}(z^T / T), \; q = \mathrm{softmax}(z^S)

  Args:
    student_logits: `[*batch, classes]`, from what will be known later.
    teacher_logits: `[*batch, classes]`, from the privileged information on the
      same examples (another modality, a clean view); no gradient.
    labels: `[*batch]`.
    temperature: T > 0, of the teacher alone. May be traced.
    imitation: lambda, in [0, 1]. May be traced.

  Returns:
    One value an example, the whole loss.

  Raises:
    ValueError: if the shapes differ, as those of unpaired batches, or a static
      number is out of range.
    TypeError: if an array has a wrong dtype.

  The student is not softened, unlike in `kdjax.distillation.kd_loss`. The paper
  tries imitations of 0 to 1 and temperatures of 1 to 50. Whether it helps
  depends on what the two modalities share (Xue et al., 2023).

  Examples:
    >>> logits = jnp.zeros((1, 2))
    >>> print(generalized_distillation_loss(logits, logits, jnp.array([0])))
    [0.6931472]

  References:
    Lopez-Paz et al., `Unifying distillation and privileged information
    <https://arxiv.org/abs/1511.03643>`_, 2016; Xue et al., `The modality
    focusing hypothesis <https://arxiv.org/abs/2206.06487>`_, 2023.
  """
  teacher = jax.lax.stop_gradient(teacher_logits)
  soft = ops.softened_softmax(teacher, temperature=temperature)
  share = ops.as_fraction(
    "imitation", imitation, ops.compute_dtype(student_logits)
  )
  hard = ops.cross_entropy(student_logits, labels)
  return (1 - share) * hard + share * ops.cross_entropy(student_logits, soft)
