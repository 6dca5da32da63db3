"""Maximum classifier discrepancy (MCD)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def classifier_discrepancy(
  probabilities_a: Float[Array, "*batch classes"],
  probabilities_b: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
  r"""Maximum classifier discrepancy (MCD): disagreement of two classifiers.

  .. math:: d = \operatorname*{mean}_c |p^A_c - p^B_c|

  Each step of the method has three updates. (A) Features and classifiers
  minimize the cross-entropy of both classifiers on the source. (B) The
  classifiers minimize that cross-entropy minus the discrepancy on the target.
  (C) The features minimize the discrepancy; this update is repeated (4 times).

  Args:
    probabilities_a: `[*batch, classes]`, of the first classifier.
    probabilities_b: of the second classifier, of the same shape.

  Returns:
    One value an example: the mean, not the sum, over classes. The published
    weight of the mean over the batch therefore grows with the number of
    classes: 1 for digits and VisDA, 10 for Office-31, 30 for Office-Home, 120
    for DomainNet (TLlib). Updates A and B also include `class_balance_loss`.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if the probabilities are not floating-point.

  Examples:
    >>> classifier_discrepancy(jnp.eye(2), 1.0 - jnp.eye(2))
    Array([1., 1.], dtype=float32)

  References:
    Saito et al., `Maximum classifier discrepancy
    <https://arxiv.org/abs/1712.02560>`_, 2018.
  """
  dtype = jnp.promote_types(
    ops.compute_dtype(probabilities_a), ops.compute_dtype(probabilities_b)
  )
  gap = probabilities_a.astype(dtype) - probabilities_b.astype(dtype)
  return jnp.mean(ops.safe_abs(gap), -1)
