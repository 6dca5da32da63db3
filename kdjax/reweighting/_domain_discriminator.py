"""Importance weights from a domain discriminator."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def discriminator_weights(
  source: Float[Array, "source dims"] | Float[Array, " source"],
  target: Float[Array, "target dims"] | Float[Array, " target"] | None = None,
  *,
  ridge: ArrayLike | None = None,
  normalize: bool = True,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " source"]:
  r"""Discriminator weights: density ratios from a domain classifier.

  .. math::
    w_i \propto \frac{1 - D(s_i)}{D(s_i)} = \frac{1}{D(s_i)} - 1
      = e^{-z(s_i)} \propto \frac{p_T(s_i)}{p_S(s_i)}

  where D = sigmoid(z) is the probability of the *source*, as in `dann_loss` and
  TLlib. For a discriminator with label 1 for the target, pass minus its logits.
  The weights are computed from logits in log space, so a saturated
  discriminator gives large, finite weights.

  The first arguments have two forms:

  - features `[source, dims]` and `[target, dims]`: D is a logistic regression
    on the features, solved exactly, as in adapt's IWC and skada. It minimizes
    the mean over domains of the logistic loss plus ridge / 2 times the squared
    slope, without a penalty on the intercept.
  - domain logits `[source]` of another discriminator. The logits of the target
    are not used.

  Args:
    source: `[source, dims]`, or logits `[source]`.
    target: `[target, dims]`; with logits, None or logits.
    ridge: the ridge of the logistic regression. None is 1 / (n_s + n_t),
      scikit-learn's `C=1` with `class_weight="balanced"`; C is
      1 / (ridge * rows).
    normalize: whether weights are scaled to mean 1. False returns (1 - D) / D,
      the ratio of the densities if both domains have equal weight in D.
    where_source: mask of the source rows; masked rows get weight 0.
    where_target: mask of the target rows.
    axis_name: the mapped axis that holds the rest of both samples. The mean is
      computed over all devices, and features are gathered.

  Returns:
    `[source]`, not negative, without gradient.

  Raises:
    ValueError: if `source` holds features and `target` does not, or a static
      ridge is not above 0.

  Differs from published code: the regressions of adapt and skada give all rows
  equal weight, so their shrinkage favors the larger domain; for C=1 and domains
  of equal size the weights are equal to these. skada (version of 2026-01)
  divides p(source) by p(target), which inverts the weights. adapt does not
  normalize the mean.

  Examples:
    >>> weights = discriminator_weights(jnp.array([0.0, jnp.log(3.0)]))
    >>> [f"{w:.2f}" for w in weights.tolist()]
    ['1.50', '0.50']

  References:
    Bickel et al., `Discriminative learning for differing training and test
    distributions <https://doi.org/10.1145/1273496.1273507>`_, 2007; Sugiyama
    et al., Density ratio estimation in machine learning, 2012, section 4.
  """
  if source.ndim == 1:
    logits, mask = ops.masked_rows(source, where_source)
    return weights_from_logits(logits, mask, axis_name, normalize)
  if target is None or target.ndim == 1:
    raise ValueError(
      "discriminator_weights: target is "
      f"{'None' if target is None else f'of shape {target.shape}'}; expected "
      f"[target, dims] = (target, {source.shape[1]}) with source features."
    )
  pair = jax.lax.stop_gradient(
    ops.as_sample_pair(source, target, where_source, where_target, axis_name)
  )
  # Equal on all devices already; the mean tells `jax.shard_map` so.
  pair = ops.mean_over_devices(pair, axis_name)
  dtype = pair.source.dtype
  mask = jnp.concatenate([pair.source_mask, pair.target_mask])
  count = jnp.maximum(jnp.sum(mask), 1)
  if ridge is None:
    penalty = 1 / count
  else:
    ops.check_positive("ridge", ridge)
    penalty = ops.as_number("ridge", ridge, dtype)
  rows = jnp.concatenate([pair.source, pair.target])
  # With the intercept the origin does not matter; a central one rounds less.
  center = jnp.sum(rows, 0) / count
  rows = mask[:, None] * (rows - center[None])
  is_source = jnp.arange(mask.size) < pair.source_mask.size
  # Nor does the unit, with a scaled ridge; it keeps squares of 1e4 small.
  unit = jnp.max(jnp.abs(rows), initial=0.0)
  unit = jnp.where(unit > 0, unit, 1.0)
  scores = ops.linear_probe_scores(
    rows / unit, is_source, (mask > 0)[None], penalty / jnp.square(unit)
  )[0]
  present = jnp.minimum(jnp.sum(pair.source_mask), jnp.sum(pair.target_mask))
  scores = jnp.where(present > 0, scores, 0.0)[: pair.source_mask.size]
  weights = weights_from_logits(scores, pair.source_mask, None, normalize)
  return ops.local_rows(weights, source.shape[0], axis_name)


def weights_from_logits(
  logits: Float[Array, " rows"],
  mask: Float[Array, " rows"],
  axis_name: str | None,
  normalize: bool = True,
) -> Float[Array, " rows"]:
  """Returns exp(-logits), optionally scaled to mean 1 over unmasked rows."""
  logits = jax.lax.stop_gradient(jnp.where(mask > 0, logits, jnp.inf))
  if not normalize:
    return jnp.exp(-logits)
  least = jnp.min(logits, initial=jnp.inf)
  if axis_name is not None:
    least = jax.lax.pmin(least, axis_name)
  least = jnp.where(jnp.isfinite(least), least, 0.0)
  return ops.weights_of_mean_one(jnp.exp(least - logits), mask, axis_name)
