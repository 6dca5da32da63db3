"""DebiasMatch: logits corrected by the mean prediction."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax import ops


@ops.validate
def debias_logits(
  logits: Float[Array, "*batch classes"],
  prior: Float[Array, " classes"],
  *,
  strength: ArrayLike = -1.0,
) -> Float[Array, "*batch classes"]:
  r"""DebiasMatch: logits corrected by the logarithm of the mean prediction.

  .. math:: z'_c = z_c + \lambda \log \hat q_c

  The pseudo-labels come from `debias_logits(weak, prior)`, which lowers the
  logits of classes that are predicted too often. The strong view gets the
  opposite correction, `debias_logits(strong, prior, strength=1.0)`, an adaptive
  margin::

    loss = fixmatch_loss(
      debias_logits(strong, prior, strength=tau),
      debias_logits(weak, prior, strength=-tau),
    )

  Args:
    logits: `[*batch, classes]`.
    prior: q, `[classes]`, from `debias_init` and `debias_update`; no gradient.
    strength: lambda. May be traced.

  Returns:
    Logits of the same shape. Published: strengths 1 and -1 (TLlib), 0.5 (the
    authors for CIFAR).

  Raises:
    ValueError: if the numbers of classes differ.

  Examples:
    >>> prior = jnp.array([0.5, 0.25])
    >>> debias_logits(jnp.zeros((1, 2)), prior)
    Array([[0.6931472, 1.3862944]], dtype=float32)

  References:
    Wang et al., `Debiased learning from naturally imbalanced pseudo-labels
    <https://arxiv.org/abs/2201.01490>`_, 2022.
  """
  dtype = jnp.promote_types(ops.compute_dtype(logits), ops.compute_dtype(prior))
  prior = jax.lax.stop_gradient(prior.astype(dtype))
  logarithm = jnp.log(ops.at_least(prior, jnp.finfo(dtype).tiny))
  shift = ops.as_number("strength", strength, dtype) * logarithm
  return logits.astype(dtype) + jnp.reshape(
    shift, (1,) * (logits.ndim - 1) + shift.shape
  )


def debias_init(num_classes: int) -> Float[Array, " classes"]:
  """DebiasMatch: the uniform mean prediction before training.

  Args:
    num_classes: the number of classes.

  Returns:
    The state of `debias_update`, `[classes]`.

  Raises:
    ValueError: if `num_classes` is not positive.
    TypeError: if `num_classes` is not an integer.

  Examples:
    >>> debias_init(4)
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)

  References:
    Wang et al., `Debiased learning from naturally imbalanced pseudo-labels
    <https://arxiv.org/abs/2201.01490>`_, 2022.
  """
  ops.check_integer("num_classes", num_classes, 1)
  return jnp.full(num_classes, 1 / num_classes, float)


@ops.validate
def debias_update(
  prior: Float[Array, " classes"],
  weak_logits: Float[Array, "batch classes"],
  *,
  momentum: ArrayLike = 0.999,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " classes"]:
  r"""DebiasMatch: moving average of the mean prediction.

  .. math:: \hat q \leftarrow \mu \hat q + (1 - \mu) \operatorname{mean}_i p_i

  Args:
    prior: q so far, from `debias_init` and `debias_update`.
    weak_logits: `[batch, classes]`, of unlabeled examples.
    momentum: mu in [0, 1]. May be traced.
    where: mask of the examples.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    The new q, without gradient; the old one if all examples are masked.

  Raises:
    ValueError: if shapes differ or a static momentum is outside [0, 1].

  Examples:
    >>> debias_update(jnp.array([1.0, 0.0]), jnp.zeros((1, 2)), momentum=0.5)
    Array([0.75, 0.25], dtype=float32)

  References:
    Wang et al., `Debiased learning from naturally imbalanced pseudo-labels
    <https://arxiv.org/abs/2201.01490>`_, 2022.
  """
  ops.check_range("momentum", momentum, 0.0, 1.0)
  rows, mask = ops.masked_rows(jax.lax.stop_gradient(weak_logits), where)
  sums, count = ops.sum_over_devices(
    (jnp.sum(mask[:, None] * ops.softened_softmax(rows), 0), jnp.sum(mask)),
    axis_name,
  )
  keep = ops.as_number("momentum", momentum, rows.dtype)
  old = prior.astype(rows.dtype)
  mean = jnp.where(count > 0, sums / jnp.maximum(count, 1), old)
  return keep * old + (1 - keep) * mean
