"""Invariant risk minimization (IRM)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax import ops


@ops.validate
def irm_penalty(
  logits: Float[Array, "*domains batch classes"],
  labels: Int[Array, "*domains batch"],
  *,
  form: str = "halves",
  where: Bool[Array, "*domains batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " *domains"]:
  r"""Invariant risk minimization (IRMv1): penalizes gradients of a logit scale.

  .. math::
    g_i = \frac{\partial}{\partial w} H(y_i, \operatorname{softmax}(w z_i))
      \Big|_{w = 1} = \sum_c p_{ic} z_{ic} - z_{i y_i}

  .. math::
    \ell_\text{halves} = \operatorname*{mean}_{i\text{ even}} g_i \cdot
      \operatorname*{mean}_{i\text{ odd}} g_i, \qquad
    \ell_\text{squared} = \bigl(\operatorname*{mean}_i g_i\bigr)^2

  Args:
    logits: `[*domains, batch, classes]`. A class at -inf is masked.
    labels: `[*domains, batch]`, integers.
    form: "halves", as in DomainBed and TLlib, an unbiased estimate of the
      squared gradient that **may be negative**. It depends on the order of the
      examples and is 0 for a single example. "squared", the paper's formula on
      the batch, is never negative; the noise of the batch increases it.
    where: `[*domains, batch]`, True for the examples to use. Even and odd
      positions are those among the used examples.
    axis_name: the mapped axis that holds the rest of each domain's batch.

  Returns:
    One value a domain, `[*domains]`: a scalar for logits of one domain.
    Published weight of the mean over domains: 1 for the first 500 steps, then
    100 with a newly initialized Adam (DomainBed) or 1 (TLlib).

  Raises:
    ValueError: if the shapes of logits and labels do not fit or the form is
      unknown.
    TypeError: if logits are not floating-point or labels are not integers.

  Examples:
    >>> logits = jnp.array([[0.0, 2.0], [1.0, 0.0]])
    >>> print(f"{irm_penalty(logits, jnp.array([1, 1])):.4f}")
    -0.1743

  References:
    Arjovsky et al., `Invariant risk minimization
    <https://arxiv.org/abs/1907.02893>`_, 2019, "halves" in appendix D.
  """
  ops.check_choice("form", form, ("halves", "squared"))
  keep = jnp.ones(labels.shape, bool) if where is None else where
  logits = jnp.where(keep[..., None], logits, jnp.zeros_like(logits))
  slopes = _scale_gradients(logits, labels)
  if form == "squared":
    parts = [keep, keep]
  else:
    odd = _positions(keep, axis_name) % 2 == 1
    parts = [keep & ~odd, keep & odd]
  first, second = (
    _masked_domain_means(slopes, part.astype(slopes.dtype), axis_name)
    for part in parts
  )
  return first * second


def _scale_gradients(
  logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
  """Returns the derivative of each example's cross-entropy by a logit scale."""
  given, labels = labels, ops.check_labels(labels, logits.shape[-1])
  logits = logits.astype(ops.compute_dtype(logits))
  probabilities = jnp.exp(ops.log_softened_softmax(logits))
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
  # Subtract the label's logit first: a large common offset would lose digits.
  masked = (logits == -jnp.inf) | (own == -jnp.inf)
  gaps = jnp.where(masked, 0.0, logits - jnp.where(masked, 0.0, own))
  slopes = jnp.sum(probabilities * gaps, -1)
  slopes = jnp.where(own[..., 0] == -jnp.inf, jnp.inf, slopes)
  return ops.mask_unknown_labels(slopes, given, logits.shape[-1])


def _positions(
  keep: Bool[Array, "*domains batch"], axis_name: str | None
) -> Int[Array, "*domains batch"]:
  """Returns the position of each used example among those of all devices."""
  position = jnp.cumsum(keep, -1) - 1
  if axis_name is None:
    return position
  counts = jax.lax.all_gather(jnp.sum(keep, -1), axis_name)
  device = jax.lax.axis_index(axis_name)
  before = jnp.arange(counts.shape[0]) < device
  before = jnp.expand_dims(before, range(1, counts.ndim))
  return position + jnp.sum(jnp.where(before, counts, 0), 0)[..., None]


def _masked_domain_means(
  values: Float[Array, "*domains batch"],
  mask: Float[Array, "*domains batch"],
  axis_name: str | None,
) -> Float[Array, " *domains"]:
  sums = jnp.sum(jnp.where(mask > 0, values, 0.0), -1)
  sums, counts = ops.sum_over_devices((sums, jnp.sum(mask, -1)), axis_name)
  return sums / jnp.maximum(counts, 1)
