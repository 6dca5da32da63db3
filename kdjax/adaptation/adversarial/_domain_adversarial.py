"""Domain-adversarial losses: DANN and ADDA."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.ops import check_choice
from kdjax.ops import compute_dtype
from kdjax.ops import masked_rows
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
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
  r"""Domain-adversarial (DANN) loss: the discriminator's cross-entropy.

  .. math::
    \ell = -\operatorname{mean}_{i \in S} \log \sigma(z_i)
           - \operatorname{mean}_{j \in T} \log (1 - \sigma(z_j))

  The source has label 1. Discriminator and features share this one loss: the
  gradient is reversed between them, where lambda belongs (times the loss it
  would slow the discriminator down as well)::

    def domain_loss(discriminator, features_source, features_target, scale):
      reverse = functools.partial(reverse_gradient, scale=scale)
      return dann_loss(
        apply(discriminator, reverse(features_source)),
        apply(discriminator, reverse(features_target)),
      )

  The paper raises lambda from 0 to 1 over training by
  `2 / (1 + exp(-10 * progress)) - 1`, progress in [0, 1]; pass it as `scale`,
  computed from the step. (TLlib's and DeepDA's slower ramps reach .46.) At a
  discriminator that cannot tell, the loss is 2 log 2.

  CDAN is this loss of the discriminator's logits for `cdan_map`.

  Args:
    source_domain_logits: `[source]` or `[source, 1]`, one logit an example.
    target_domain_logits: `[target]` or `[target, 1]`.
    scaling: "paper" adds the two means (also Dassl); "mean" is half of that,
      the mean over domains (TLlib, DeepDA); "pooled" is the mean over the
      examples of both together (CDAN in TLlib), the same for equally many.
    source_weights: `[source]`, one weight an example: those of
      `cdan_weights`, or of instances (PADA, IWAN). They get no gradient
      and multiply the terms of a mean that divides by the number of examples,
      not by their sum, so weights of mean 1 change no scale.
    target_weights: `[target]`.
    where_source: which source examples count.
    where_target: which target examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    A scalar; a domain without example adds 0 with gradient 0.

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
  check_choice("scaling", scaling, ("paper", "mean", "pooled"))

  def sums(
    logits: Array, weights: Array | None, where: Array | None
  ) -> tuple[Array, Array]:
    logits, mask = masked_rows(logits.reshape(-1), where)
    losses = mask * jax.nn.softplus(-logits)
    if weights is not None:
      weights, _ = masked_rows(jax.lax.stop_gradient(weights), where)
      losses = losses * weights
    return sum_over_devices((jnp.sum(losses), jnp.sum(mask)), axis_name)

  source, n_source = sums(source_domain_logits, source_weights, where_source)
  target, n_target = sums(-target_domain_logits, target_weights, where_target)
  if scaling == "pooled":
    return (source + target) / jnp.maximum(n_source + n_target, 1)
  value = source / jnp.maximum(n_source, 1) + target / jnp.maximum(n_target, 1)
  return value if scaling == "paper" else value / 2


@validate
def adda_loss(
  target_domain_logits: Float[Array, " target"] | Float[Array, "target 1"],
) -> Float[Array, " target"]:
  r"""Adversarial discriminative adaptation (ADDA): the target encoder's loss.

  .. math:: \ell_j = -\log \sigma(z_j)

  The target passes for source: inverted labels instead of a reversed gradient,
  which stays strong where the discriminator is sure. The encoder, a copy of
  the source's, minimizes this; the discriminator minimizes `dann_loss`
  in turn, on features without gradient.

  Args:
    target_domain_logits: `[target]` or `[target, 1]`; positive says source.

  Returns:
    One value an example. Published weight: 1 times the mean over the batch.

  Raises:
    ValueError: if the logits have another shape.
    TypeError: if they are not floating-point.

  Examples:
    >>> adda_loss(jnp.zeros(2))
    Array([0.6931472, 0.6931472], dtype=float32)

  References:
    Tzeng et al., `Adversarial discriminative domain adaptation
    <https://arxiv.org/abs/1702.05464>`_, 2017.
  """
  logits = target_domain_logits.reshape(-1)
  return jax.nn.softplus(-logits.astype(compute_dtype(logits)))
