"""DebiasMatch: logits corrected by the mean prediction."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from kdjax.ops import as_number
from kdjax.ops import check_range
from kdjax.ops import compute_dtype
from kdjax.ops import masked_rows
from kdjax.ops import softened_softmax
from kdjax.ops import sum_over_devices
from kdjax.ops import validate


@validate
def debias_logits(
  logits: Float[Array, "*batch classes"],
  prior: Float[Array, " classes"],
  *,
  strength: ArrayLike = -1.0,
) -> Float[Array, "*batch classes"]:
  r"""DebiasMatch: logits moved by the logarithm of the mean prediction.

  .. math:: z'_c = z_c + \lambda \log \hat q_c

  The pseudo-labels come from `debias_logits(weak, prior)`, which takes the
  classes that are predicted too often back; the strong view gets the opposite,
  `debias_logits(strong, prior, strength=1.0)`, an adaptive margin::

    loss = fixmatch_loss(
      debias_logits(strong, prior, strength=tau),
      debias_logits(weak, prior, strength=-tau),
    )

  Args:
    logits: `[*batch, classes]`.
    prior: q, `[classes]`, from `debias_update`; no gradient.
    strength: lambda. May be traced.

  Returns:
    Logits of the same shape. Published: strengths 1 and -1 (TLlib), 0.5 (the
    authors for CIFAR).

  Raises:
    ValueError: if the classes differ.

  Examples:
    >>> prior = jnp.array([0.5, 0.25])
    >>> debias_logits(jnp.zeros((1, 2)), prior)
    Array([[0.6931472, 1.3862944]], dtype=float32)

  References:
    Wang et al., `Debiased learning from naturally imbalanced pseudo-labels
    <https://arxiv.org/abs/2201.01490>`_, 2022.
  """
  dtype = jnp.promote_types(compute_dtype(logits), compute_dtype(prior))
  prior = jax.lax.stop_gradient(prior.astype(dtype))
  logarithm = jnp.log(jnp.maximum(prior, jnp.finfo(dtype).tiny))
  shift = as_number("strength", strength, dtype) * logarithm
  return logits.astype(dtype) + jnp.reshape(
    shift, (1,) * (logits.ndim - 1) + shift.shape
  )


@validate
def debias_update(
  weak_logits: Float[Array, "batch classes"],
  prior: Float[Array, " classes"],
  *,
  momentum: ArrayLike = 0.999,
  where: Bool[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, " classes"]:
  r"""DebiasMatch's update of the mean prediction.

  .. math:: \hat q \leftarrow \mu \hat q + (1 - \mu) \operatorname{mean}_i p_i

  Args:
    weak_logits: `[batch, classes]`, of unlabeled examples.
    prior: q so far; it starts uniform.
    momentum: mu in [0, 1]. May be traced.
    where: which examples count.
    axis_name: the mapped axis that holds the rest of the batch.

  Returns:
    The new q, without gradient; the old one if nothing counts.

  Raises:
    ValueError: if shapes disagree or a static momentum is outside [0, 1].

  Examples:
    >>> debias_update(jnp.zeros((1, 2)), jnp.array([1.0, 0.0]), momentum=0.5)
    Array([0.75, 0.25], dtype=float32)

  References:
    Wang et al., `Debiased learning from naturally imbalanced pseudo-labels
    <https://arxiv.org/abs/2201.01490>`_, 2022.
  """
  check_range("momentum", momentum, 0.0, 1.0)
  rows, mask = masked_rows(jax.lax.stop_gradient(weak_logits), where)
  sums, count = sum_over_devices(
    (jnp.sum(mask[:, None] * softened_softmax(rows), 0), jnp.sum(mask)),
    axis_name,
  )
  keep = as_number("momentum", momentum, rows.dtype)
  old = prior.astype(rows.dtype)
  mean = jnp.where(count > 0, sums / jnp.maximum(count, 1), old)
  return keep * old + (1 - keep) * mean
