"""Deep mutual learning (DML) and codistillation."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def mutual_loss(
  logits: Float[Array, "peers batch classes"],
  *,
  reduction: str = "sum",
  epsilon: ArrayLike = 1e-8,
  peer_axis_name: str | None = None,
) -> Float[Array, "peers batch"]:
  r"""Deep mutual learning (DML): each peer learns from all others.

  .. math::
    \ell_i = \sum_{j \neq i} \mathrm{KL}(p_j \Vert p_i), \quad
    \mathrm{KL}(p \Vert q) =
      \sum_c p_c \log\Bigl(\epsilon + \frac{p_c}{q_c + \epsilon}\Bigr)

  Args:
    logits: `[peers, batch, classes]`, of different networks on the same
      examples.
    reduction: of the other peers, "sum" (the authors' code) or "mean" (the
      paper).
    epsilon: at least 0, as in the authors' code; 0 gives the paper's KL
      divergence. May be traced.
    peer_axis_name: the mapped axis that holds the other peers, if each device
      trains some of them: predictions are gathered, parameters never.

  Returns:
    `[peers, batch]`, one value for each peer and example. Peer i gets the
    gradient of its own value alone: the other peers are constants in it.
    Published weight: 1, beside each peer's cross-entropy.

  Raises:
    ValueError: if the logits have another number of axes, as those of peers
      with different classes, if the reduction is unknown, or a static epsilon
      is below 0.
    TypeError: if the logits are not floating-point.

  With the sum over peers of these values as the loss, one gradient step is the
  simultaneous update of all peers; the authors update one after the other,
  each with the others' new predictions (`training.collaborate` offers both).

  Examples:
    >>> logits = jnp.array([[[0.0, 0.0]], [[0.0, -jnp.inf]]])
    >>> print(mutual_loss(logits, epsilon=0.0)[0])  # KL(second || first)
    [0.6931472]

  References:
    Zhang et al., `Deep mutual learning <https://arxiv.org/abs/1706.00384>`_,
    2018.
  """
  ops.check_choice("mutual_loss: reduction", reduction, ("sum", "mean"))
  ops.check_range("mutual_loss: epsilon", epsilon, 0.0, math.inf)
  peers = logits.shape[0]
  logits = logits.astype(ops.compute_dtype(logits))
  others = ops.gather_batch(jax.lax.stop_gradient(logits), peer_axis_name)
  own = ops.gathered_positions(peers, peer_axis_name)
  total = others.shape[0]
  shape = (peers, total, *logits.shape[1:])
  values = _kl_of_quotients(
    jnp.broadcast_to(others[None], shape),
    jnp.broadcast_to(logits[:, None], shape),
    epsilon,
  )
  other = own[:, None] != jnp.arange(total)[None]
  losses = jnp.sum(jnp.where(other[..., None], values, 0.0), 1)
  return losses / max(total - 1, 1) if reduction == "mean" else losses


def _kl_of_quotients(p: Array, q: Array, epsilon: ArrayLike) -> Array:
  """Returns sum p log(epsilon + p / (q + epsilon)) of rows of logits.

  It is the KL divergence plus sum p log(epsilon q / p + q / (q + epsilon)),
  which keeps the digits of close distributions.
  """
  value = ops.forward_kl(p, q, 1.0)
  log_p, log_q = ops.log_softened_softmax(p), ops.log_softened_softmax(q)
  small = ops.as_number("epsilon", epsilon, ops.compute_dtype(log_q))
  used = (log_p > -80.0) & (log_q != -jnp.inf) & (small > 0)
  log_p, log_q = (jnp.where(used, x, 0.0) for x in (log_p, log_q))
  shift = jnp.where(small > 0, small, 1.0)
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  change = shift * (q / p - 1 / (q + shift))
  near = jnp.abs(change) < 0.5
  far = jnp.logaddexp(
    jnp.log(shift) + log_q - log_p, log_q - jnp.log(q + shift)
  )
  log_factor = jnp.where(near, jnp.log1p(jnp.where(near, change, 0.0)), far)
  return value + jnp.sum(jnp.where(used, p * log_factor, 0.0), -1)


@ops.validate
def codistillation_loss(
  student_logits: Float[Array, "*batch classes"],
  stale_logits: Float[Array, "peers *batch classes"],
) -> Float[Array, "*batch"]:
  r"""Codistillation: the cross-entropy with the mean of other peers' answers.

  .. math::
    \ell = -\sum_c \bar p_c \log q_c, \quad \bar p = \frac1K \sum_j p_j

  Args:
    student_logits: `[*batch, classes]`.
    stale_logits: `[peers, *batch, classes]`, of the other peers, from
      checkpoints that may be thousands of steps old; no gradient.

  Returns:
    One value an example. Published weight: 1 after a burn-in of labels alone,
    beside the cross-entropy.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> stale = jnp.array([[[9.0, -jnp.inf]], [[-jnp.inf, 9.0]]])
    >>> print(codistillation_loss(jnp.zeros((1, 2)), stale))
    [0.6931472]

  References:
    Anil et al., `Large scale distributed neural network training through online
    distillation <https://arxiv.org/abs/1804.03235>`_, 2018.
  """
  stale = ops.softened_softmax(jax.lax.stop_gradient(stale_logits))
  return ops.cross_entropy(student_logits, jnp.mean(stale, 0))
