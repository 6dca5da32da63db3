"""Domain-adversarial losses: DANN and ADDA."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def dann_loss(
  source_domain_logits: Float[Array, " source"] | Float[Array, "source 1"],
  target_domain_logits: Float[Array, " target"] | Float[Array, "target 1"],
  *,
  scaling: str = "paper",
  source_weights: Float[Array, " source"] | None = None,
  target_weights: Float[Array, " target"] | None = None,
  where_source: Bool[Array, " source"] | None = None,
  where_target: Bool[Array, " target"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Domain-adversarial training (DANN): cross-entropy of the discriminator.

  .. math::
    \ell = -\operatorname{mean}_{i \in S} \log \sigma(z_i)
           - \operatorname{mean}_{j \in T} \log (1 - \sigma(z_j))

  The source has label 1. The discriminator and the features share this loss,
  with a reversed gradient between them. Scale the reversal, not the loss, by
  lambda: lambda times the loss would also slow the discriminator down::

    def domain_loss(discriminator, features_source, features_target, scale):
      reverse = functools.partial(reverse_gradient, scale=scale)
      return dann_loss(
        apply(discriminator, reverse(features_source)),
        apply(discriminator, reverse(features_target)),
      )

  The paper raises lambda from 0 to 1 over training by
  `2 / (1 + exp(-10 * progress)) - 1`, with progress in [0, 1]. Compute it from
  the step and pass it as `scale`. (The slower ramps of TLlib and DeepDA reach
  0.46.) A discriminator with probability 1/2 everywhere has loss 2 log 2.

  CDAN applies this loss to the discriminator's logits of `cdan_map`.

  Args:
    source_domain_logits: `[source]` or `[source, 1]`, one logit an example.
    target_domain_logits: `[target]` or `[target, 1]`.
    scaling: "paper" adds the means of both domains (also Dassl). "mean" is half
      of the sum (TLlib, DeepDA). "pooled" is the mean over the examples of both
      domains together (CDAN in TLlib); for domains of equal size it equals
      "mean".
    source_weights: `[source]`, one weight an example, from `cdan_weights`, PADA
      or IWAN. They get no gradient. The weighted mean divides by the number of
      examples, not by the sum of the weights, so weights of mean 1 keep the
      scale of the loss.
    target_weights: `[target]`.
    where_source: mask of the source examples.
    where_target: mask of the target examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; a domain without examples adds 0 with gradient 0.

  Raises:
    ValueError: if a mask and its logits differ in length, or `scaling` is
      unknown.

  Examples:
    >>> import jax.numpy as jnp
    >>> dann_loss(jnp.zeros(3), jnp.zeros((2, 1)))
    Array(1.3862944, dtype=float32)
    >>> dann_loss(jnp.zeros(3), jnp.zeros((2, 1)), scaling="mean")
    Array(0.6931472, dtype=float32)

  References:
    Ganin et al., `Domain-adversarial training of neural networks
    <https://arxiv.org/abs/1505.07818>`_, 2016, equation 9.
  """
  ops.check_choice("scaling", scaling, ("paper", "mean", "pooled"))

  def sums(
    logits: Array, weights: Array | None, where: Array | None
  ) -> tuple[Array, Array]:
    logits, mask = ops.masked_rows(logits.reshape(-1), where)
    losses = mask * jax.nn.softplus(-logits)
    if weights is not None:
      weights, _ = ops.masked_rows(jax.lax.stop_gradient(weights), where)
      losses = losses * weights
    return ops.sum_over_devices((jnp.sum(losses), jnp.sum(mask)), axis_name)

  source, n_source = sums(source_domain_logits, source_weights, where_source)
  target, n_target = sums(-target_domain_logits, target_weights, where_target)
  if scaling == "pooled":
    return (source + target) / jnp.maximum(n_source + n_target, 1)
  value = source / jnp.maximum(n_source, 1) + target / jnp.maximum(n_target, 1)
  return value if scaling == "paper" else value / 2


@ops.validate
def adda_loss(
  target_domain_logits: Float[Array, " target"] | Float[Array, "target 1"],
) -> Float[Array, " target"]:
  r"""Adversarial discriminative adaptation (ADDA): loss of the target encoder.

  .. math:: \ell_j = -\log \sigma(z_j)

  The loss has inverted domain labels instead of a reversed gradient, and so a
  large gradient where the discriminator is confident. The target encoder starts
  as a copy of the source encoder and minimizes this loss. In turn the
  discriminator minimizes `dann_loss` on features without gradient.

  Args:
    target_domain_logits: `[target]` or `[target, 1]`; positive for the source.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch.

  Raises:
    ValueError: if the logits have another shape.
    TypeError: if the logits are not floating-point.

  Examples:
    >>> adda_loss(jnp.zeros(2))
    Array([0.6931472, 0.6931472], dtype=float32)

  References:
    Tzeng et al., `Adversarial discriminative domain adaptation
    <https://arxiv.org/abs/1702.05464>`_, 2017.
  """
  logits = target_domain_logits.reshape(-1)
  return jax.nn.softplus(-logits.astype(ops.compute_dtype(logits)))
