"""Self-ensembling: class balance of the predictions."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def self_ensembling_balance_loss(
  target_logits: Float[Array, "batch classes"],
  *,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Class balance (self-ensembling): moves the mean prediction to uniform.

  .. math::
    \ell = -\operatorname*{mean}_c \Bigl[\tfrac1K \log \bar p_c
      + \bigl(1 - \tfrac1K\bigr) \log(1 - \bar p_c)\Bigr], \qquad
    \bar p = \operatorname*{mean}_i p_i

  a binary cross-entropy for each class. MCD's `class_balance_loss` differs.

  Args:
    target_logits: `[batch, classes]`, of the student. A class at -inf has
      probability 0 and stays in the mean over classes.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; each logarithm is at least -100, as in PyTorch; 0 with gradient 0
    if all examples
    are masked. Published weight: 0.005 times the number of classes
    (French), 0.01 (TLlib), each times the share of confident examples.

  Raises:
    TypeError: if the logits are not floating-point.

  Examples:
    >>> self_ensembling_balance_loss(jnp.zeros((3, 2)))
    Array(0.6931472, dtype=float32)

  References:
    French et al., `Self-ensembling for visual domain adaptation
    <https://arxiv.org/abs/1706.05208>`_, 2018.
  """
  logits, mask = ops.masked_rows(target_logits, where)
  log_p = ops.log_softened_softmax(logits)
  excluded = log_p == -jnp.inf
  log_p = jnp.where(excluded, 0.0, log_p)
  p = jnp.where(excluded, 0.0, jnp.exp(log_p))
  # 1 - p without cancellation where p is near 1.
  rest = jnp.where(excluded, 1.0, -jnp.expm1(log_p))
  sums, rests, count = ops.sum_over_devices(
    (
      jnp.sum(mask[:, None] * p, 0),
      jnp.sum(mask[:, None] * rest, 0),
      jnp.sum(mask),
    ),
    axis_name,
  )
  count = jnp.maximum(count, 1)
  share = 1 / logits.shape[-1]
  value = -jnp.mean(
    share * _bounded_log(sums / count)
    + (1 - share) * _bounded_log(rests / count)
  )
  return jnp.where(jnp.sum(sums) == 0, 0.0, value)


def _bounded_log(x: Float[Array, " classes"]) -> Float[Array, " classes"]:
  """Returns the logarithm, at least -100; the gradient of the bound is 0."""
  floor = jnp.exp(jnp.asarray(-100.0, x.dtype))
  low = x <= jnp.maximum(floor, jnp.finfo(x.dtype).tiny)
  return jnp.where(low, -100.0, jnp.log(jnp.where(low, 1.0, x)))
