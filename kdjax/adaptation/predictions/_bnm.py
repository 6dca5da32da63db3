"""Batch nuclear-norm maximization (BNM)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def bnm_loss(
  target_logits: Float[Array, "batch classes"],
  *,
  scaling: str = "paper",
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Batch nuclear-norm maximization (BNM): confident, diverse predictions.

  .. math::
    \ell_{\text{paper}} = -\frac{\lVert P \rVert_*}{B}, \qquad
    \ell_{\text{mean}} = -\frac{\lVert P \rVert_*}{\min(B, C)}

  with P the `[B, C]` matrix of probabilities. Its nuclear norm, the sum of its
  singular values, is large if the rows are one-hot (discriminability) and of
  many classes (diversity).

  Args:
    target_logits: `[batch, classes]`.
    scaling: "paper" (also pytorch-adapt and the authors' open-set code) or
      "mean", the mean of the singular values (the authors' adaptation code,
      DeepDA). "mean" is B / min(B, C) times "paper".
    where: mask of the rows.
    axis_name: the mapped axis that holds the rest of the batch; rows are
      gathered.

  Returns:
    A scalar in [-1, 0], or [-sqrt(B / C), 0] for "mean" with more rows than
    classes. Published weight: 1 (DeepDA: 1 times "mean").

  Raises:
    ValueError: if `scaling` is unknown.

  Linearly dependent rows or classes give singular values of 0, where the norm
  is not differentiable. The gradient there is the smallest subgradient, so
  equal rows have a finite gradient.

  Examples:
    >>> sure = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    >>> print(f"{bnm_loss(sure):.3f} {bnm_loss(sure[:1]):.3f}")
    -1.000 -1.000
    >>> print(f"{bnm_loss(0.0 * sure):.3f}")
    -0.500

  References:
    Cui et al., `Towards discriminability and diversity: batch nuclear-norm
    maximization <https://arxiv.org/abs/2003.12237>`_, 2020.
  """
  ops.check_choice("scaling", scaling, ("paper", "mean"))
  logits, mask = ops.gathered_rows(target_logits, where, axis_name)
  probabilities = mask[:, None] * ops.softened_softmax(logits)
  norm = jnp.sum(ops.svd(probabilities)[1])
  count = jnp.sum(mask)
  if scaling == "mean":
    count = jnp.minimum(count, logits.shape[1])
  return ops.mean_over_devices(-norm / jnp.maximum(count, 1), axis_name)
