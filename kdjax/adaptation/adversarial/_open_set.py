"""Open-set adaptation by back-propagation (OSBP)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops
from kdjax.adaptation.adversarial._mdd import log_of_others


@ops.validate
def osbp_loss(
  target_logits: Float[Array, "*batch classes"],
  *,
  unknown_share: ArrayLike = 0.5,
  epsilon: ArrayLike = 1e-6,
) -> Float[Array, "*batch"]:
  r"""Open-set adaptation by backpropagation (OSBP): rejects unknown classes.

  .. math::
    \ell = -t \log (p_{K + 1} + \epsilon)
           - (1 - t) \log (1 - p_{K + 1} + \epsilon)

  with p the softmax over K known classes and one unknown class, the last one.
  The classifier minimizes the loss, which moves the unknown probability of each
  target example to t. The features maximize it, through `ops.reverse_gradient`
  of scale 1, which moves that probability away from t, up or down. On the
  source the classifier minimizes the cross-entropy, without labels K + 1.

  Args:
    target_logits: `[*batch, K + 1]`, of features whose gradient is reversed;
      the last class is the unknown one. A class at -inf is masked.
    unknown_share: t in [0, 1]. May be traced.
    epsilon: >= 0. May be traced. 0 is the paper's formula, which is unbounded.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch.

  Raises:
    ValueError: if a static number is out of range.
    TypeError: if the logits are not floating-point.

  TLlib computes 1 - p, which has no correct digit where p is near 1; here it is
  the sum over the known classes.

  Examples:
    >>> logits = jnp.array([[0.0, 0.0], [1e4, 0.0]])
    >>> print(*(f"{loss:.4f}" for loss in osbp_loss(logits)))
    0.6931 6.9078

  References:
    Saito et al., `Open set domain adaptation by backpropagation
    <https://arxiv.org/abs/1804.10427>`_, 2018.
  """
  ops.check_range("epsilon", epsilon, 0.0, float("inf"))
  dtype = ops.compute_dtype(target_logits)
  share = ops.as_fraction("unknown_share", unknown_share, dtype)
  floor = jnp.log(ops.as_number("epsilon", epsilon, dtype))
  unknown = ops.log_softened_softmax(target_logits)[..., -1]
  last = jnp.full(unknown.shape, target_logits.shape[-1] - 1)
  known = log_of_others(target_logits, last)
  return -share * jnp.logaddexp(unknown, floor) - (1 - share) * jnp.logaddexp(
    known, floor
  )
