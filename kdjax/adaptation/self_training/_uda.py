"""Unsupervised data augmentation (UDA)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops
from kdjax.adaptation.self_training._confidence import is_confident


@ops.validate
def uda_loss(
  strong_logits: Float[Array, "batch classes"],
  weak_logits: Float[Array, "batch classes"],
  *,
  threshold: ArrayLike = 0.7,
  temperature: ArrayLike = 0.85,
  sharpen: str = "student",
  average: str = "confident",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Unsupervised data augmentation (UDA): consistency between two views.

  .. math::
    \ell = \frac{\sum_i m_i \, \mathrm{KL}(q_i \Vert p_i)}
                {\max(\sum_i m_i, 1)}, \qquad
    m_i = \mathbb 1[\max_c \mathrm{softmax}(z^w_i)_c \ge \tau]

  Published codes apply the temperature T < 1 to different sides:

  - `sharpen="student"` (TLlib): q = softmax(z^w), p = softmax(z^s / T). At the
    optimum the logits of the strong view are T times those of the weak view.
  - `sharpen="teacher"` (the paper): q = softmax(z^w / T), p = softmax(z^s).

  Args:
    strong_logits: `[batch, classes]`, z^s of the strong view; they get
      gradient.
    weak_logits: `[batch, classes]`, z^w of the weak view; no gradient.
    threshold: tau in [0, 1], the least confidence of the weak view at T = 1.
      May be traced.
    temperature: T > 0. May be traced.
    sharpen: "student" or "teacher".
    average: "confident" divides by the number of confident examples (TLlib),
      "all" by the number of all examples (the authors' code).
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; 0 with gradient 0 if no unmasked example is confident.
    Published: weight 1, with threshold 0.7 and temperature 0.85 (TLlib);
    threshold 0.8, temperature 0.4 and `sharpen="teacher"` with "all" (the
    authors, for CIFAR-10).

  Raises:
    ValueError: if the shapes differ, an option is unknown, or a static
      temperature or threshold is out of range.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> strong = jnp.zeros((2, 2))
    >>> weak = jnp.array([[0.0, 4.0], [0.0, 0.1]])
    >>> print(f"{uda_loss(strong, weak):.4f}")
    0.6031
    >>> print(f"{uda_loss(strong, weak, average='all'):.4f}")
    0.3015

  References:
    Xie et al., `Unsupervised data augmentation for consistency training
    <https://arxiv.org/abs/1904.12848>`_, 2020.
  """
  ops.check_choice("sharpen", sharpen, ("student", "teacher"))
  ops.check_choice("average", average, ("confident", "all"))
  strong, mask = ops.masked_rows(strong_logits, where)
  weak, _ = ops.masked_rows(jax.lax.stop_gradient(weak_logits), where)
  scale = ops.row_temperature(temperature, strong, -1)
  ones = jnp.ones_like(scale)
  student, teacher = (scale, ones) if sharpen == "student" else (ones, scale)
  divergences = ops.forward_kl(weak / teacher, strong / student, 1.0)
  confident = is_confident(weak, threshold) & (mask > 0)
  # An example with NaN counts, though it is not confident.
  confident |= jnp.any(jnp.isnan(weak), -1)
  if average == "confident":
    return ops.masked_mean(divergences, confident, axis_name=axis_name)
  return ops.masked_mean(
    jnp.where(confident, divergences, 0.0), where, axis_name=axis_name
  )
