"""Branches of one network that teach each other: ONE and OKDDip."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdjax import ops


@ops.validate
def one_logits(
  logits: Float[Array, "peers batch classes"],
  gate: Float[Array, "batch peers"],
) -> Float[Array, "batch classes"]:
  r"""Ensemble of on-the-fly native ensemble (ONE): a gated sum of branches.

  .. math:: z_e = \sum_m g_m z_m

  Args:
    logits: `[peers, batch, classes]`, of the branches.
    gate: `[batch, peers]`, weights that sum to 1, such as the softmax of a
      layer on the shared features.

  Returns:
    `[batch, classes]`, with gradients by both arguments. A class with a gate of
    0 at a logit of -inf adds 0. The authors train it by the cross-entropy with
    the labels, which also trains the gate.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if an array is not floating-point.

  Examples:
    >>> logits = jnp.array([[[4.0, 0.0]], [[0.0, 2.0]]])
    >>> print(one_logits(logits, jnp.array([[0.75, 0.25]])))
    [[3.  0.5]]

  References:
    Lan, Zhu and Gong, `Knowledge distillation by on-the-fly native ensemble
    <https://arxiv.org/abs/1806.04606>`_, 2018.
  """
  weights = gate.astype(ops.compute_dtype(gate)).T[..., None]
  logits = logits.astype(ops.compute_dtype(logits))
  # A gate of 0 times a logit of -inf is 0, not NaN.
  skipped = (weights == 0) & (logits == -jnp.inf)
  return jnp.sum(weights * jnp.where(skipped, 0.0, logits), 0)


@ops.validate
def one_loss(
  logits: Float[Array, "peers batch classes"],
  gate: Float[Array, "batch peers"],
  *,
  temperature: ArrayLike = 3.0,
  epsilon: ArrayLike = 1e-7,
) -> Float[Array, " batch"]:
  r"""On-the-fly native ensemble (ONE): branches learn from their ensemble.

  .. math:: \ell = \sum_m T^2 \, \mathrm{KL}(p_e \Vert p_m)

  with the softened softmax p_e of `one_logits`.

  Args:
    logits: `[peers, batch, classes]`, of the branches.
    gate: `[batch, peers]`, weights that sum to 1; no gradient.
    temperature: T > 0. May be traced.
    epsilon: at least 0, added to the target's probabilities, which are not
      normalized again, as in the authors' code; 0 gives the paper's formula.

  Returns:
    One value an example. The ensemble is a target without gradient. Published
    weight: `consistency_ramp`, beside the cross-entropy of each branch and of
    the ensemble.

  Raises:
    ValueError: if shapes do not fit, a static temperature is not above 0 or a
      static epsilon below 0.
    TypeError: if an array is not floating-point.

  The authors' gate has a ReLU before its softmax.

  Examples:
    >>> logits = jnp.array([[[3.0, 0.0]], [[3.0, 0.0]]])
    >>> print(one_loss(logits, jnp.array([[0.5, 0.5]]), epsilon=0.0))
    [0.]

  References:
    Lan, Zhu and Gong, `Knowledge distillation by on-the-fly native ensemble
    <https://arxiv.org/abs/1806.04606>`_, 2018.
  """
  target = jax.lax.stop_gradient(one_logits(logits, gate))
  return _softened_kl(target[None], logits, temperature, epsilon)


@ops.validate
def okddip_attention(
  queries: Float[Array, "batch peers dims"],
  keys: Float[Array, "batch peers dims"],
) -> Float[Array, "batch peers peers"]:
  r"""Attention of OKDDip: whom each auxiliary peer learns from.

  .. math:: a_{ij} = \frac{\exp(q_i \cdot k_j)}{\sum_l \exp(q_i \cdot k_l)}

  Args:
    queries: `[batch, peers, dims]`, a linear map of each peer's embedding, of
      an eighth of its width (the authors).
    keys: `[batch, peers, dims]`, another linear map of it.

  Returns:
    `[batch, peers, peers]`; rows sum to 1, and it is not symmetric.

  Raises:
    ValueError: if the shapes differ.
    TypeError: if an array is not floating-point.

  Examples:
    >>> zeros = jnp.zeros((1, 2, 3))
    >>> print(okddip_attention(zeros, zeros)[0])
    [[0.5 0.5]
     [0.5 0.5]]

  References:
    Chen et al., `Online knowledge distillation with diverse peers
    <https://arxiv.org/abs/1912.00350>`_, 2020.
  """
  queries, keys = (x.astype(ops.compute_dtype(x)) for x in (queries, keys))
  energy = jnp.einsum("bid,bjd->bij", queries, keys, precision="highest")
  return ops.softened_softmax(energy)


@ops.validate
def okddip_loss(
  logits: Float[Array, "peers batch classes"],
  attention: Float[Array, "batch peers peers"],
  *,
  temperature: ArrayLike = 3.0,
  epsilon: ArrayLike = 1e-7,
) -> Float[Array, " batch"]:
  r"""Online distillation with diverse peers (OKDDip): the first level.

  .. math::
    \ell = \sum_i T^2 \, \mathrm{KL}(t_i \Vert p_i), \quad
    t_i = \mathrm{softmax}\Bigl(\frac1T \sum_j a_{ij} z_j\Bigr)

  Args:
    logits: z, `[peers, batch, classes]`, of the auxiliary peers.
    attention: a, `[batch, peers, peers]`, of `okddip_attention`.
    temperature: T > 0. May be traced.
    epsilon: at least 0, added to the targets' probabilities, which are not
      normalized again, as in the authors' code; 0 gives the paper's formula.

  Returns:
    One value an example. Published weight: `consistency_ramp`, beside the
    cross-entropy of each peer. Gradients pass through the targets too, as in
    the authors' code: they train the attention.

  Raises:
    ValueError: if shapes do not fit, a static temperature is not above 0 or a
      static epsilon below 0.
    TypeError: if an array is not floating-point.

  The second level teaches the group leader, the peer that is kept, by the mean
  logits of the auxiliary peers: `distillation.soft_target_loss`, with the same
  weight.

  Examples:
    >>> logits = jnp.array([[[3.0, 0.0]], [[3.0, 0.0]]])
    >>> print(okddip_loss(logits, jnp.full((1, 2, 2), 0.5), epsilon=0.0))
    [0.]

  References:
    Chen et al., `Online knowledge distillation with diverse peers
    <https://arxiv.org/abs/1912.00350>`_, 2020.
  """
  weights = attention.astype(ops.compute_dtype(attention))
  logits = logits.astype(ops.compute_dtype(logits))
  targets = jnp.einsum("bij,jbc->ibc", weights, logits, precision="highest")
  return _softened_kl(targets, logits, temperature, epsilon)


def consistency_ramp(
  epoch: ArrayLike, *, length: ArrayLike = 80.0
) -> Float[Array, ""]:
  r"""Ramp of the weight of branches' agreement: ONE's and OKDDip's.

  .. math:: w = \exp(-5 (1 - \min(t / L, 1))^2)

  Args:
    epoch: t, from 0 on. May be traced.
    length: L > 0, after which the weight is 1.

  Returns:
    A scalar, from 0.0067 to 1.

  Raises:
    ValueError: if a static length is not above 0.

  Examples:
    >>> print(consistency_ramp(80), f"{consistency_ramp(0):.4f}")
    1.0 0.0067

  References:
    Laine and Aila, `Temporal ensembling for semi-supervised learning
    <https://arxiv.org/abs/1610.02242>`_, 2017.
  """
  ops.check_positive("consistency_ramp: length", length)
  dtype = jnp.result_type(float)
  share = ops.as_number("epoch", epoch, dtype) / ops.as_number(
    "length", length, dtype
  )
  return jnp.exp(-5 * jnp.square(1 - jnp.clip(share, 0.0, 1.0)))


def _softened_kl(
  targets: Array, logits: Array, temperature: ArrayLike, epsilon: ArrayLike
) -> Array:
  """Returns T^2 KL(p + epsilon || q) of peers, summed over the first axis."""
  ops.check_positive("temperature", temperature)
  ops.check_range("epsilon", epsilon, 0.0, math.inf)
  targets = jnp.broadcast_to(targets, logits.shape)
  dtype = ops.compute_dtype(logits)
  scale = ops.as_number("temperature", temperature, dtype)
  values = ops.forward_kl(targets, logits, scale)
  # sum (p + e) log((p + e) / q) = KL + sum p log(1 + e / p)
  #   + e (log(p + e) - log q), which keeps the digits of the first term.
  small = ops.as_number("epsilon", epsilon, dtype)
  log_p, log_q = (
    ops.log_softened_softmax(x, temperature=scale) for x in (targets, logits)
  )
  used = (log_p != -jnp.inf) & (log_q != -jnp.inf) & (small > 0)
  log_p, log_q = (jnp.where(used, x, 0.0) for x in (log_p, log_q))
  p, shift = jnp.exp(log_p), jnp.where(small > 0, small, 1.0)
  log_shift = jnp.log(shift)
  log_sum = jnp.logaddexp(log_p, log_shift)
  extra = p * (log_sum - log_p) + shift * (log_sum - log_q)
  values = values + jnp.sum(jnp.where(used, extra, 0.0), -1)
  return jnp.square(scale) * jnp.sum(values, 0)
