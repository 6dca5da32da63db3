"""Adversarial alignment: features that a domain discriminator cannot tell."""

import jax
from jaxtyping import Array, Bool, Float

from kdjax.adaptation._rows import masked_rows
from kdjax.ops import masked_mean
from kdjax.ops._validation import check_choice
from kdjax.ops._validation import validate


@validate
def dann_loss(
  source_domain_logits: Float[Array, " source"] | Float[Array, "source 1"],
  target_domain_logits: Float[Array, " target"] | Float[Array, "target 1"],
  *,
  scaling: str = "paper",
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

  Args:
    source_domain_logits: `[source]` or `[source, 1]`, one logit an example.
    target_domain_logits: `[target]` or `[target, 1]`.
    scaling: "paper" adds the two means (also Dassl); "mean" is half of that,
      the mean over domains (TLlib, DeepDA).
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
  check_choice("scaling", scaling, ("paper", "mean"))
  value = _negative_log_sigmoid(
    source_domain_logits, where_source, axis_name
  ) + _negative_log_sigmoid(-target_domain_logits, where_target, axis_name)
  return value if scaling == "paper" else value / 2


def _negative_log_sigmoid(
  logits: Float[Array, "..."],
  where: Bool[Array, " batch"] | None,
  axis_name: str | None,
) -> Float[Array, ""]:
  logits, _ = masked_rows(logits.reshape(-1), where)
  return masked_mean(jax.nn.softplus(-logits), where, axis_name=axis_name)
