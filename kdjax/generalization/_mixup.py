"""Mixup between domains: convex combinations of examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops
from kdjax.generalization._mixing_partners import (
  add_trailing_axes,
  sample_beta,
  sample_partners,
  split_key,
)


@ops.exportable
class Mixed(NamedTuple):
  """Mixed examples and the arguments of `mixed_loss`.

  Attributes:
    inputs: the mixtures, shaped as the inputs.
    labels: the label of each example.
    partner_labels: the label of its partner.
    weights: one value an example, the weight of its own input and label.
    where: True for mixtures of two examples to use; None without a mask.

  References:
    Zhang et al., `mixup <https://arxiv.org/abs/1710.09412>`_, 2018.
  """

  inputs: Float[Array, "..."]
  labels: Int[Array, "*batch"]
  partner_labels: Int[Array, "*batch"]
  weights: Float[Array, "*batch"]
  where: Bool[Array, "*batch"] | None


@ops.validate
def mixup(
  key: Any | None,
  inputs: Float[Array, "domains batch ..."],
  labels: Int[Array, "domains batch"],
  *,
  alpha: ArrayLike = 0.2,
  partners: Int[Array, " domains"] | None = None,
  weights: Float[Array, " domains"] | None = None,
  where: Bool[Array, "domains batch"] | None = None,
) -> Mixed:
  r"""Inter-domain mixup: mixes the batches of pairs of domains.

  .. math::
    x'_{di} = \lambda_d\, x_{di} + (1 - \lambda_d)\, x_{\pi(d), i}, \qquad
    \lambda_d \sim \operatorname{Beta}(\alpha, \alpha)

  A random cyclic permutation gives each domain its partner. All examples of a
  domain have the same weight, as in DomainBed.

  Args:
    key: draws partners and weights; None if both are given.
    inputs: `[domains, batch, ...]`.
    labels: `[domains, batch]`, integers.
    alpha: above 0. May be traced.
    partners: `[domains]`, \pi(d) to use instead of drawn ones.
    weights: `[domains]`, \lambda to use instead of drawn ones.
    where: `[domains, batch]`, True for the examples to use.

  Returns:
    A `Mixed`, one mixture for each example. Minimize the mean of
    `mixed_loss(logits, *mixed[1:4])`, as DomainBed does. Published alpha: 0.2;
    up to 10 in DomainBed's random search. DeepDG pairs single examples
    (`domainmix`).

  Raises:
    ValueError: if the key is None and partners or weights are not given, or
      shapes do not fit.

  Examples:
    >>> inputs = jnp.array([[[0.0]], [[8.0]]])
    >>> mixed = mixup(
    ...   None,
    ...   inputs,
    ...   jnp.array([[0], [1]]),
    ...   partners=jnp.array([1, 0]),
    ...   weights=jnp.array([0.75, 1.0]),
    ... )
    >>> print(mixed.inputs.ravel(), mixed.partner_labels.ravel())
    [2. 8.] [1 0]

  References:
    Xu et al., `Adversarial domain adaptation with domain mixup
    <https://arxiv.org/abs/1912.01805>`_, 2020; Yan et al., `Improve
    unsupervised domain adaptation with mixup training
    <https://arxiv.org/abs/2001.00677>`_, 2020.
  """
  ops.check_positive("alpha", alpha)
  domains, dtype = inputs.shape[0], ops.compute_dtype(inputs)
  needed = partners is None or weights is None
  order_key, weight_key, _ = split_key("mixup", key, needed)
  if partners is None:
    order = jax.random.permutation(order_key, domains)
    partners = jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))
  if weights is None:
    weights = sample_beta(weight_key, (domains,), alpha, alpha, dtype)
  share = ops.as_fraction("weights", weights, dtype, shape=(domains,))
  share = jnp.broadcast_to(share[:, None], labels.shape)
  return _mixed(inputs, labels, partners, share, where)


@ops.validate
def domainmix(
  key: Any | None,
  inputs: Float[Array, "batch ..."],
  labels: Int[Array, " batch"],
  domains: Int[Array, " batch"],
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  mix: str = "crossdomain",
  partners: Int[Array, " batch"] | None = None,
  weights: Float[Array, " batch"] | None = None,
  where: Bool[Array, " batch"] | None = None,
) -> Mixed:
  r"""DomainMix: mixes examples with examples of other domains.

  .. math::
    x'_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad
    \lambda \sim \operatorname{Beta}(\alpha, \beta)

  with one weight for the batch. The partners of a domain's examples are drawn
  from the other domains, without replacement if there are enough.

  Args:
    key: draws partners and the weight; None if both are given.
    inputs: `[batch, ...]`.
    labels: `[batch]`, integers.
    domains: `[batch]`, the domain of each example, integers.
    alpha: above 0. May be traced.
    beta: above 0. May be traced.
    mix: "crossdomain", or "random" for a permutation of the batch. Both permute
      a batch of one domain.
    partners: `[batch]`, \pi(i) to use instead of drawn ones.
    weights: `[batch]`, \lambda of each example, instead of one drawn weight.
    where: `[batch]`, True for the examples to use; only they become partners.

  Returns:
    A `Mixed`, with the loss `mixed_loss(logits, *mixed[1:4])`. Published:
    alpha = beta = 1 (Dassl), a uniform weight.

  Raises:
    ValueError: if the key is None and partners or weights are not given, `mix`
      is unknown or shapes do not fit.

  Examples:
    >>> mixed = domainmix(
    ...   jax.random.key(0),
    ...   jnp.array([[0.0], [8.0]]),
    ...   jnp.array([0, 1]),
    ...   jnp.array([0, 1]),
    ...   weights=jnp.array([0.75, 1.0]),
    ... )
    >>> print(mixed.inputs.ravel(), mixed.partner_labels)
    [2. 8.] [1 0]

  References:
    Sun et al., `Dynamic domain generalization
    <https://arxiv.org/abs/2205.13913>`_, 2022.
  """
  ops.check_positive("alpha", alpha)
  ops.check_positive("beta", beta)
  ops.check_choice("mix", mix, ("random", "crossdomain"))
  batch, dtype = inputs.shape[0], ops.compute_dtype(inputs)
  needed = partners is None or weights is None
  partner_key, weight_key, _ = split_key("domainmix", key, needed)
  if partners is None:
    partners = sample_partners(
      partner_key, batch, mix=mix, domains=domains, where=where
    )
  if weights is None:
    weights = sample_beta(weight_key, (), alpha, beta, dtype)
  share = ops.as_fraction("weights", weights, dtype, shape=(batch,))
  share = jnp.broadcast_to(share, labels.shape)
  return _mixed(inputs, labels, partners, share, where)


@ops.validate
def mixed_loss(
  logits: Float[Array, "*batch classes"],
  labels: Int[Array, "*batch"],
  partner_labels: Int[Array, "*batch"],
  weights: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
  r"""Mixup loss: the cross-entropies with both labels, weighted.

  .. math::
    \ell = \lambda H(y, q) + (1 - \lambda) H(y', q), \qquad
    q = \operatorname{softmax}(z)

  Args:
    logits: `[*batch, classes]`, of the mixtures.
    labels: `[*batch]`, integers, y.
    partner_labels: `[*batch]`, integers, y'.
    weights: `[*batch]`, \lambda; no gradient.

  Returns:
    One value an example.

  Raises:
    ValueError: if shapes do not fit.
    TypeError: if logits are not floating-point or labels are not integers.

  Examples:
    >>> print(
    ...   mixed_loss(
    ...     jnp.zeros((1, 2)), jnp.array([0]), jnp.array([1]), jnp.ones(1) / 2
    ...   )
    ... )
    [0.6931472]

  References:
    Zhang et al., `mixup: beyond empirical risk minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018.
  """
  own, partner = (
    ops.cross_entropy(logits, values) for values in (labels, partner_labels)
  )
  weights = jax.lax.stop_gradient(weights.astype(own.dtype))
  # The loss of a masked class is infinite, and 0 times infinity is NaN.
  own = jnp.where(weights == 0, 0.0, own)
  partner = jnp.where(weights == 1, 0.0, partner)
  return weights * own + (1 - weights) * partner


def _mixed(
  inputs: Array,
  labels: Array,
  partners: Array,
  share: Array,
  where: Array | None,
) -> Mixed:
  values = inputs.astype(ops.compute_dtype(inputs))
  weight = add_trailing_axes(share, values)
  mixed = weight * values + (1 - weight) * values[partners]
  if where is not None:
    where = where & where[partners]
  return Mixed(
    mixed.astype(inputs.dtype),
    labels,
    labels[partners],
    jax.lax.stop_gradient(share),
    where,
  )
